"""Uses the test server as other programs do: with boto3. Takes the endpoint as its argument."""

import sys

import boto3
import botocore.config
import botocore.exceptions

BUCKET = "test"
client = boto3.client(
    "s3",
    endpoint_url=sys.argv[1],
    region_name="eu-central-1",
    aws_access_key_id="test",
    aws_secret_access_key="test-secret",
    config=botocore.config.Config(
        s3={"addressing_style": "path"}, retries={"max_attempts": 0}
    ),
)


def refused(code, call, **arguments):
    """The call fails with this code."""
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        got = error.response["Error"]["Code"]
        assert got == code, f"{got} instead of {code}"
    else:
        raise AssertionError(f"no {code}")


client.head_bucket(Bucket=BUCKET)
refused("404", client.head_bucket, Bucket="other")
refused("NoSuchKey", client.get_object, Bucket=BUCKET, Key="a/b")
client.put_object(Bucket=BUCKET, Key="a/b", Body=b"0123456789", IfNoneMatch="*")
refused(
    "PreconditionFailed", client.put_object, Bucket=BUCKET, Key="a/b", Body=b"x", IfNoneMatch="*"
)
assert client.get_object(Bucket=BUCKET, Key="a/b")["Body"].read() == b"0123456789"
part = client.get_object(Bucket=BUCKET, Key="a/b", Range="bytes=-3")
assert (part["Body"].read(), part["ContentRange"]) == (b"789", "bytes 7-9/10")
refused("InvalidRange", client.get_object, Bucket=BUCKET, Key="a/b", Range="bytes=10-")
assert client.head_object(Bucket=BUCKET, Key="a/b")["ContentLength"] == 10
for number in range(25):
    client.put_object(Bucket=BUCKET, Key=f"list/{number % 2}/{number:02}", Body=b"")
pages = client.get_paginator("list_objects_v2")
keys = [
    item["Key"]
    for page in pages.paginate(Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 10})
    for item in page["Contents"]
]
assert keys == sorted(f"list/{number % 2}/{number:02}" for number in range(25)), keys
shallow = client.list_objects_v2(Bucket=BUCKET, Prefix="list/", Delimiter="/")
assert [item["Prefix"] for item in shallow["CommonPrefixes"]] == ["list/0/", "list/1/"]
assert "Contents" not in shallow
client.delete_object(Bucket=BUCKET, Key="a/b")
refused("404", client.head_object, Bucket=BUCKET, Key="a/b")
stranger = boto3.client(
    "s3",
    endpoint_url=sys.argv[1],
    region_name="eu-central-1",
    aws_access_key_id="test",
    aws_secret_access_key="wrong",
)
refused("SignatureDoesNotMatch", stranger.get_object, Bucket=BUCKET, Key="list/0/00")
print("boto3 and the test server understand each other")
