"""S3 as moto speaks it, and fsspec's store in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from lorax_spec.adapters.disk_cache import DiskCache
from lorax_spec.adapters.known import Known
from lorax_spec.adapters.object_source import ObjectSource
from lorax_spec.adapters.retry import Retry
from lorax_spec.adapters.source import Location
from lorax_spec.errors import (
    AdapterNotFound,
    InvalidArgument,
    LoraxSpecError,
    PermissionDenied,
    Unavailable,
)
from lorax_spec.types import AdapterRef
from tests.adapters.executors import Clock

CONFIG, WEIGHTS = b'{"peft_type": "LORA"}', bytes(range(256)) * 400
ROOT = "s3://bucket/adapters"
REF = AdapterRef(f"{ROOT}/team/lora")


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client
    server.stop()


@pytest.fixture
def bucket(s3: Any) -> Any:
    for entry in s3.list_objects_v2(Bucket="bucket").get("Contents", ()):
        s3.delete_object(Bucket="bucket", Key=entry["Key"])
    put(s3, "adapter_config.json", CONFIG)
    put(s3, "adapter_model.safetensors", WEIGHTS)
    put(s3, "notes.txt", b"no part")
    put(s3, "deeper/adapter_model.safetensors", b"no part")
    return s3


def put(s3: Any, name: str, content: bytes, folder: str = "adapters/team/lora") -> None:
    s3.put_object(Bucket="bucket", Key=f"{folder}/{name}", Body=content)


class Caller:
    def __init__(self, folder: Path, *roots: str) -> None:
        self.clock, self.cache = Clock(), DiskCache(folder, 10**9)
        self.source = ObjectSource(
            self.cache,
            roots or (ROOT,),
            retry=Retry(attempts=2, first=0.001),
            known=Known(clock=self.clock),
        )

    def find(self, ref: AdapterRef = REF) -> Location:
        return self.source.resolve(ref) or self.source.look_up(ref)

    def fetch(self, ref: AdapterRef = REF) -> dict[str, bytes]:
        folder = self.source.fetch(self.find(ref), ref)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_adapters_files_come_and_no_others(bucket: Any, tmp_path: Path) -> None:
    caller = Caller(tmp_path)
    assert caller.source.resolve(REF) is None
    expected = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}
    assert caller.fetch() == expected
    assert all(file.digest.startswith("md5:") for file in caller.find().files)
    short = AdapterRef("team/lora", "s3")
    assert caller.fetch(short) == expected and caller.find(short) == caller.find()


def test_new_content_is_a_new_adapter(bucket: Any, tmp_path: Path) -> None:
    caller = Caller(tmp_path)
    first = caller.find()
    caller.fetch()
    changed = WEIGHTS[::-1]
    put(bucket, "adapter_model.safetensors", changed)
    assert caller.source.resolve(REF) == first
    caller.clock.now += 61
    second = caller.find()
    assert second != first and second.key == first.key and second.commit != first.commit
    assert caller.fetch()["adapter_model.safetensors"] == changed


def test_what_changes_while_it_is_fetched_is_not_taken(bucket: Any, tmp_path: Path) -> None:
    caller = Caller(tmp_path)
    location = caller.find()
    put(bucket, "adapter_config.json", CONFIG + b" ")
    with pytest.raises(Unavailable):
        caller.fetch()
    assert not location.folder.exists()
    caller.clock.now += 61
    assert caller.fetch()["adapter_config.json"] == CONFIG + b" "


def test_equally_long_content_that_came_meanwhile_is_seen(bucket: Any, tmp_path: Path) -> None:
    """Uploaded in parts, it has no digest to tell by."""

    def upload(content: bytes) -> None:
        key = {"Bucket": "bucket", "Key": "adapters/team/lora/adapter_model.safetensors"}
        upload = bucket.create_multipart_upload(**key)["UploadId"]
        part = bucket.upload_part(**key, PartNumber=1, UploadId=upload, Body=content)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        bucket.complete_multipart_upload(**key, UploadId=upload, MultipartUpload=parts)

    caller = Caller(tmp_path)
    upload(WEIGHTS)
    location = caller.find()
    assert location.files[1].digest == ""
    upload(WEIGHTS[::-1])
    with pytest.raises(Unavailable, match="changed"):
        caller.fetch()
    assert not location.folder.exists()
    caller.clock.now += 61
    assert caller.fetch()["adapter_model.safetensors"] == WEIGHTS[::-1]


def test_damaged_files_are_not_taken(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(tmp_path)
    store, _ = caller.source._store(REF.adapter_id, "")
    get_file = store.get_file

    def spoiled(remote: str, local: str) -> None:
        get_file(remote, local)
        content = Path(local).read_bytes()
        Path(local).write_bytes(bytes([content[0] ^ 1]) + content[1:])

    monkeypatch.setattr(store, "get_file", spoiled)
    with pytest.raises(Unavailable, match="damaged"):
        caller.fetch()
    assert not caller.find().folder.exists()
    monkeypatch.undo()
    assert caller.fetch()["adapter_model.safetensors"] == WEIGHTS


def test_own_credentials_are_a_scope_of_their_own(bucket: Any, tmp_path: Path) -> None:
    caller = Caller(tmp_path)
    server, own = caller.find(), caller.find(AdapterRef(REF.adapter_id, api_token="id:word"))
    assert server.scope == "" and own.scope and "word" not in own.scope
    assert own.key != server.key and own.folder != server.folder
    assert caller.find(AdapterRef(REF.adapter_id, api_token="hf_token")) == server


@pytest.mark.parametrize(
    ("adapter_id", "error"),
    [
        ("s3://bucket/adapters/none", AdapterNotFound),
        ("s3://bucket/adapters", PermissionDenied),
        ("s3://bucket/adapters/", AdapterNotFound),
        ("s3://bucket/adapters-of-others/x", PermissionDenied),
        ("s3://bucket/adapters/../secret", PermissionDenied),
        ("s3://bucket/adapters//team/lora", PermissionDenied),
        ("s3://other/adapters/team/lora", PermissionDenied),
        ("file:///etc/ssl", PermissionDenied),
        ("file:etc", PermissionDenied),
        ("local:///etc", PermissionDenied),
        ("FILE:///etc", PermissionDenied),
        ("simplecache::s3://bucket/adapters/team/lora", AdapterNotFound),
        ("s3://bucket/adapters/x::file:///etc", AdapterNotFound),
        ("http://127.0.0.1/adapters/team", PermissionDenied),
        ("s3://bucket/adapters/te*m/lora", AdapterNotFound),
        ("s3://bucket/adapters/team/lora?versionId=1", AdapterNotFound),
        ("../adapters", PermissionDenied),
        ("/etc", PermissionDenied),
        ("", AdapterNotFound),
    ],
)
def test_no_other_place_is_asked(
    bucket: Any, tmp_path: Path, adapter_id: str, error: type[LoraxSpecError]
) -> None:
    put(bucket, "adapter_config.json", CONFIG, "secret")
    put(bucket, "adapter_config.json", CONFIG, "adapters-of-others/x")
    with pytest.raises(error):
        Caller(tmp_path).find(AdapterRef(adapter_id, "s3"))


def test_refusals(bucket: Any, tmp_path: Path) -> None:
    caller = Caller(tmp_path, ROOT, "s3://nowhere/x", "nonsense://bucket/x")
    put(bucket, "readme.txt", b"", "adapters/empty")
    for name, error in {
        f"{ROOT}/empty": AdapterNotFound,
        "s3://nowhere/x/y": AdapterNotFound,
        "nonsense://bucket/x/y": Unavailable,
    }.items():
        with pytest.raises(error):
            caller.find(AdapterRef(name))
        with pytest.raises(error):
            caller.source.resolve(AdapterRef(name))
    with pytest.raises(AdapterNotFound, match="revisions"):
        caller.find(AdapterRef(REF.adapter_id, revision="main"))


def test_a_store_that_is_not_there(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(os.environ, "AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Unavailable):
        Caller(tmp_path).find()


@pytest.mark.parametrize("root", ["file:///srv", "local:///srv", "/srv", "a::s3://b", ""])
def test_roots_are_urls_of_stores(tmp_path: Path, root: str) -> None:
    with pytest.raises(InvalidArgument):
        Caller(tmp_path, root)


def test_any_store_of_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/adapters/lora/adapter_config.json", CONFIG)
    memory.pipe("/adapters/lora/adapter_model.safetensors", WEIGHTS)
    caller = Caller(tmp_path, "memory://adapters")
    found = caller.fetch(AdapterRef("memory://adapters/lora"))
    assert found == {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}
