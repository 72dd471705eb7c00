import os


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = f"{os.getpid()} {os.environ['ROTAD_GENERATION']} uvicorn\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
