// better-auth as authorization server (issuer /api/auth) and guard of /mcp: PORT LIFETIME JWKS. Its database and the
// clients that it registered are files in the current folder.
import fs from 'node:fs'
import http from 'node:http'
import { DatabaseSync } from 'node:sqlite'
import { mcp, requireMcpAuth } from '@better-auth/mcp'
import { betterAuth } from 'better-auth'
import { getMigrations } from 'better-auth/db/migration'
import { toNodeHandler } from 'better-auth/node'
import { jwt } from 'better-auth/plugins'

const [port, lifetime] = process.argv.slice(2, 4).map(Number)
const jwks = JSON.parse(process.argv[4])
const origin = `http://127.0.0.1:${port}`
const resource = `${origin}/mcp`
const options = {
  baseURL: origin,
  secret: 'kJ8sd7Fh3lQpZ0aXcV9bNm2wErTyUi5o4Gt1',
  database: new DatabaseSync('db.sqlite3'),
  emailAndPassword: { enabled: true },
  telemetry: { enabled: false },
  rateLimit: { enabled: false },
  plugins: [
    jwt(),
    mcp({
      resource,
      loginPage: '/login',
      consentPage: '/consent',
      scopes: ['openid', 'read', 'write'],
      m2mAccessTokenExpiresIn: lifetime,
      clientPrivileges: () => true,
      resourcePrivileges: () => true,
    }),
  ],
}
await (await getMigrations(options)).runMigrations()
const auth = betterAuth(options)
await auth.$context

if (!fs.existsSync('clients.json')) {
  const body = { email: 'a@b.test', password: 'longenough-1', name: 'A' }
  const who = await auth.api.signUpEmail({ body, asResponse: true })
  const cookie = who.headers.getSetCookie().map((each) => each.split(';')[0]).join('; ')
  const headers = new Headers({ cookie })
  const clients = {}
  const registrations = {
    basic: { token_endpoint_auth_method: 'client_secret_basic' },
    post: { token_endpoint_auth_method: 'client_secret_post' },
    dpop: { dpop_bound_access_tokens: true },
  }
  for (const [name, jwk] of Object.entries(jwks)) {
    registrations[name] = { token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [jwk] } }
  }
  for (const [name, registration] of Object.entries(registrations)) {
    const client = await auth.api.adminCreateOAuthClient({
      headers,
      body: {
        client_name: name,
        grant_types: ['client_credentials'],
        client_credentials_scopes: ['read', 'write'],
        ...registration,
      },
    })
    const params = { identifier: resource, client_id: client.client_id }
    await auth.api.adminLinkClientResource({ headers, params })
    clients[name] = { client_id: client.client_id, client_secret: client.client_secret }
  }
  fs.writeFileSync('clients.json', JSON.stringify(clients))
}

const handle = toNodeHandler(auth)
const guarded = async (_, claims) => Response.json({ jsonrpc: '2.0', id: 0, result: { claims } })
const guard = requireMcpAuth(auth, guarded, { resource, requiredScopes: ['read'] })
http
  .createServer(async (request, response) => {
    if (request.url !== '/mcp') return handle(request, response)
    const answer = await guard(new Request(resource, { method: request.method, headers: request.headers }))
    response.writeHead(answer.status, Object.fromEntries(answer.headers))
    response.end(await answer.text())
  })
  .listen(port, '127.0.0.1')
