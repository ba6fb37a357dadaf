"""Adapters: one room per HTTP client, imported by name, so that only the client in use is ever loaded.

`conduit_oauth.auth.httpx2`, `.httpx` and `.requests` hold a `TokenAuth` for that client's `auth=`; `.aiohttp` holds one
for its `middlewares=`.
"""
