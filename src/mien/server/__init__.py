"""The HTTP server: `mien.server.app.app(reader)` is an ASGI app, `mien serve` runs it,
`mien.server.client.Client` asks it.

Needs the extra: pip install 'mien[serve]'. The client needs nothing but the standard library.
"""
