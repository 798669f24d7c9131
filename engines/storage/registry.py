"""Which store serves which URL."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from engines.errors import InvalidTarget
from engines.storage.base import Store
from engines.storage.local import LocalStore

REMOTE_SCHEMES = ("s3", "gs", "az")
_OPTIONS = {
    "s3": {"region", "endpoint", "virtual_hosted_style_request"},
    "gs": {"service_account"},
    "az": {"endpoint", "use_emulator"},
}
_USERINFO = {"s3": ("access_key_id", "secret_access_key"), "az": ("account_name", "account_key")}
_REQUEST_SECONDS = 120


def open_store(name: str, url: str) -> Store:
    """The store behind a URL: a path or `file://…`, `s3://bucket/prefix`, `gs://…`, `az://container/…`.

    Remote stores take credentials as their own tools do (`AWS_ACCESS_KEY_ID` …) or as user and password of
    the URL (S3: key id and secret; Azure: account and key), and options in the query: `region`, `endpoint`,
    `part_mib`. No I/O. Raises `InvalidTarget`, without quoting the URL.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if not scheme:
        return LocalStore(name, _local(Path(url), name))
    if scheme == "file":
        return LocalStore(name, _local(Path(unquote(urlsplit(url).path)), name))
    if scheme not in REMOTE_SCHEMES:
        raise InvalidTarget(
            f"The URL of the store {name!r} has an unknown scheme.",
            hint="Use a path, file://, s3://, gs:// or az://.",
        )
    return _remote(name, scheme, url)


def _local(path: Path, name: str) -> Path:
    if not str(path).strip() or str(path) == ".":
        raise InvalidTarget(f"The store {name!r} has no folder.", hint="Name a folder of its own.")
    return path


def _remote(name: str, scheme: str, url: str) -> Store:
    from obstore.exceptions import BaseError  # here because it takes time and memory, and most run without it
    from obstore.store import from_url

    from engines.storage.objects import PART_BYTES, ObjectStore

    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        part_bytes = int(options.pop("part_mib", PART_BYTES >> 20)) << 20
        bare = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        from_any: Any = from_url  # typed with one overload per store
        remote = from_any(
            bare,
            config=_config(scheme, parts, options),
            client_options={
                "allow_http": options.get("endpoint", "").startswith("http://"),
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(seconds=_REQUEST_SECONDS),
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=_REQUEST_SECONDS)},
        )
    except (ValueError, BaseError) as error:
        raise InvalidTarget(
            f"The URL of the store {name!r} cannot be used.", hint="Check bucket, prefix and options."
        ) from error
    return ObjectStore(name, bare, remote, part_bytes)


def _config(scheme: str, parts: SplitResult, options: dict[str, str]) -> dict[str, Any]:
    unknown = options.keys() - _OPTIONS[scheme]
    if unknown or not parts.hostname:
        raise ValueError(f"unknown options {sorted(unknown)}" if unknown else "no bucket")
    config: dict[str, Any] = dict(options)
    given = (parts.username, parts.password)
    for field, value in zip(_USERINFO.get(scheme, ()), given, strict=False):
        if value:
            config[field] = unquote(value)
    return config
