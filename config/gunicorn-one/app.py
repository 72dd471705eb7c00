import os

def app(environ, start_response):
    body = f"{os.getpid()} {os.environ['ROTAD_GENERATION']} gunicorn\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
