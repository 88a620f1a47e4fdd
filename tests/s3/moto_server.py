"""Runs moto's S3 with one bucket and one user, whose signatures it checks.

Prints the environment that a test needs as NAME=VALUE lines, then an empty one. Ends when its
standard input does, or with SIGTERM.
"""

import json
import signal
import sys
import tempfile

import boto3
import requests
from moto.server import ThreadedMotoServer

import tls

# An ordinary exit, so that the folder is removed.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
folder = tempfile.TemporaryDirectory()
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"
anybody = {
    "endpoint_url": endpoint,
    "region_name": "us-east-1",
    "aws_access_key_id": "any",
    "aws_secret_access_key": "any",
}
boto3.client("s3", **anybody).create_bucket(Bucket="sprites")
iam = boto3.client("iam", **anybody)
iam.create_user(UserName="sprites")
policy = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}
iam.put_user_policy(
    UserName="sprites", PolicyName="s3", PolicyDocument=json.dumps(policy)
)
key = iam.create_access_key(UserName="sprites")["AccessKey"]
# From now on every request must be signed with that key.
requests.post(f"{endpoint}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()

print(f"SPRITES_TEST_STORE=s3://sprites/in/here?endpoint={endpoint}")
tls_port, authority = tls.start((host, port), folder.name)
print(
    "SPRITES_TEST_STORE_TLS=s3://sprites/in/here"
    f"?endpoint=https://localhost:{tls_port}&region=us-east-1"
)
print(f"SSL_CERT_FILE={authority}")
print(f"AWS_ACCESS_KEY_ID={key['AccessKeyId']}")
print(f"AWS_SECRET_ACCESS_KEY={key['SecretAccessKey']}")
print(flush=True)
sys.stdin.read()
server.stop()
folder.cleanup()
