// oauth2-mock-server: PORT. Its issuer is http://localhost:PORT; its metadata lists the method none, and it takes any.
import { OAuth2Server } from 'oauth2-mock-server'

const server = new OAuth2Server()
await server.issuer.keys.generate('RS256')
await server.start(Number(process.argv[2]), '127.0.0.1')
