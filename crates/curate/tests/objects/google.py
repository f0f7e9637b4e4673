"""Google Cloud Storage's XML API on a port of this machine, for the tests of `gs://`: python google.py PORT

That API is the S3 protocol with a bearer token and x-goog- headers, so that moto's S3 answers once both are translated.
What is installable and made for Google's store answers too little of it: fake-gcs-server 1.54 refuses to write an
object without a signed URL or in parts and has no If-Match; gcp-storage-emulator knows neither HEAD nor listings.
"""

import sys

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

# The only one that is let in.
TOKEN = "Bearer test"
# Whom moto takes the caller for; it checks no signature.
CALLER = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none"

s3 = DomainDispatcherApplication(create_backend_app)


def answer(environ, start_response):
    if environ.get("HTTP_AUTHORIZATION") != TOKEN:
        start_response("401 Unauthorized", [("Content-Length", "0")])
        return []
    environ["HTTP_AUTHORIZATION"] = CALLER
    for name in [name for name in environ if name.startswith("HTTP_X_GOOG_")]:
        environ[name.replace("GOOG", "AMZ", 1)] = environ.pop(name)
    return s3(environ, start_response)


run_simple("127.0.0.1", int(sys.argv[1]), answer, threaded=True)
