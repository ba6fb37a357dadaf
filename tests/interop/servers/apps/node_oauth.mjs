// @node-oauth/oauth2-server on express: PORT LIFETIME. No metadata, opaque tokens, and Basic is not decoded.
import OAuthServer from '@node-oauth/express-oauth-server'
import express from 'express'

const [port, accessTokenLifetime] = process.argv.slice(2, 4).map(Number)
const clients = {
  basic: { id: 'basic', secret: 's3cret', grants: ['client_credentials'], scopes: ['read', 'write'] },
  odd: { id: 'odd', secret: 'a:%+/=& b', grants: ['client_credentials'], scopes: ['read'] },
  accented: { id: 'accented', secret: 'café', grants: ['client_credentials'], scopes: ['read'] },
  person: { id: 'person', secret: 's3cret', grants: ['authorization_code'], scopes: ['read'] },
}
const tokens = new Map()
const model = {
  getClient: async (id, secret) => (clients[id] && (secret == null || clients[id].secret === secret) ? clients[id] : null),
  getUserFromClient: async (client) => ({ id: client.id }),
  saveToken: async (token, client, user) => {
    const saved = { ...token, client, user }
    tokens.set(token.accessToken, saved)
    return saved
  },
  getAccessToken: async (token) => tokens.get(token),
  validateScope: async (_, client, scope) => {
    if (!scope) return client.scopes
    return scope.every((each) => client.scopes.includes(each)) ? scope : false
  },
  verifyScope: async (token, scope) => scope.every((each) => (token.scope ?? []).includes(each)),
}
const oauth = new OAuthServer({ model, accessTokenLifetime })
const app = express()
app.use(express.urlencoded({ extended: false }))
app.post('/oauth/token', oauth.token())
app.listen(port, '127.0.0.1')
