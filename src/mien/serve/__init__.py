"""`mien serve`: an HTTP server that predicts uploaded recordings, and frames and sound as they come.

`run.serve` starts it; `app.create_app` is the application; docs/SERVER.md describes its routes. Needs the extra `serve`
(FastAPI, uvicorn, python-multipart, websockets, prometheus-client).
"""
