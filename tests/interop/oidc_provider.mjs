// oidc-provider on a loopback port (0: a free one), with the clients it is told. Prints its issuer, then a line for each token request.
import fs from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import Provider from 'oidc-provider'

const { clients, requireNonce, tls, port = 0, lifetime = 600 } = JSON.parse(process.argv[2])
const read = (name) => fs.readFileSync(`${tls}/${name}.pem`)
const server = tls
  ? https.createServer({ key: read('server-key'), cert: read('server'), ca: read('ca'), requestCert: true, rejectUnauthorized: false })
  : http.createServer()

server.listen(port, '127.0.0.1', () => {
  const issuer = `${tls ? 'https' : 'http'}://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    clients: clients.map((client) => ({
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
      ...client,
    })),
    clientAuthMethods: [
      ...['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none'],
      ...(tls ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
    ],
    enabledJWA: {
      clientAuthSigningAlgValues: ['HS256', 'RS256', 'PS256', 'ES256', 'ES384', 'ES512', 'Ed25519', 'EdDSA'],
      dPoPSigningAlgValues: ['ES256', 'Ed25519'],
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => ({ scope: 'read write', audience: resource, accessTokenFormat: 'jwt' }),
      },
      mTLS: {
        enabled: Boolean(tls),
        certificateBoundAccessTokens: true,
        selfSignedTlsClientAuth: true,
        tlsClientAuth: true,
        getCertificate: (ctx) => ctx.req.socket.getPeerX509Certificate(),
        certificateAuthorized: (ctx) => ctx.req.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === 'tls_client_auth_subject_dn' && ctx.req.socket.getPeerX509Certificate().subject === expected,
      },
      dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => requireNonce },
    },
    discovery: { mtls_endpoint_aliases: { token_endpoint: `${issuer}/token?mtls` } },
    ttl: { ClientCredentials: lifetime },
    scopes: ['read', 'write'],
  })
  const log = (ctx, error) =>
    console.log(
      JSON.stringify({
        client_id: ctx.oidc.client?.clientId,
        method: ctx.oidc.client?.clientAuthMethod,
        dpop: Boolean(ctx.get('DPoP')),
        bound: Boolean(ctx.oidc.entities.ClientCredentials?.jkt || ctx.oidc.entities.ClientCredentials?.['x5t#S256']),
        query: ctx.querystring || undefined,
        error: error?.error,
      }),
    )
  provider.on('grant.success', (ctx) => log(ctx))
  provider.on('grant.error', log)
  provider.on('server_error', (ctx, error) => console.error(error))
  server.on('request', provider.callback())
  console.log(issuer)
})
