"""What a stranger imports to write an oracle, to serve it over HTTP, and to check that it keeps to the protocol.

`oracle` (the class), `function` (the decorator), `app` (the HTTP service), `serving` (one process), `conformance`.
"""
