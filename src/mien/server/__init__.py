"""The HTTP server: `mien.server.app.app(reader)` is an ASGI app, and `mien serve` runs it.

It needs the extra: pip install 'mien[serve]'. `mien.server.client.Client` sends requests with the standard
library alone.
"""
