"""A client of S3 that is set up as everyone's is, by `AWS_*` and ~/.aws, with defaults that fit large blobs."""

import logging
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import ConstantProvider
from botocore.exceptions import BotoCoreError

from registry.errors import StorageError

_ATTEMPTS = 5


def s3_client(*, connect_seconds: float, read_seconds: float) -> Any:
    """Standard retries, five attempts, unless AWS_RETRY_MODE, AWS_MAX_ATTEMPTS or the profile say otherwise.

    Raises:
        StorageError: what the environment or ~/.aws say cannot be used.
    """
    _keep_headers_out_of_logs()
    try:
        session = botocore.session.get_session()
        settings = session.get_component("config_store")
        for name, default in (("retry_mode", "standard"), ("max_attempts", _ATTEMPTS)):
            settings.get_config_provider(name).set_default_provider(ConstantProvider(default))
        client = boto3.Session(botocore_session=session).client(
            "s3",
            config=Config(
                connect_timeout=connect_seconds,
                read_timeout=read_seconds,
                # Whoever reads compares the whole with its sha256: a checksum of one part of it says less.
                response_checksum_validation="when_required",
            ),
        )
    except (BotoCoreError, ValueError) as error:
        # Not its text: it may quote an address with a password in it.
        raise StorageError(
            f"S3 is not set up ({type(error).__name__}): AWS_ENDPOINT_URL must be a URL, AWS_MAX_ATTEMPTS a number, "
            "and AWS_PROFILE and AWS_DEFAULT_REGION must exist"
        ) from None
    if "@" in urlsplit(client.meta.endpoint_url).netloc:
        raise StorageError(
            "AWS_ENDPOINT_URL holds a user's name or password: leave it out, S3 takes credentials from "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from AWS_PROFILE"
        )
    return client


def attempts(client: Any) -> int:
    """How often it tries a request in all."""
    return int(client.meta.config.retries["total_max_attempts"])


def endpoint(client: Any) -> str:
    """The server's address."""
    return str(client.meta.endpoint_url)


def _keep_headers_out_of_logs() -> None:
    """At DEBUG botocore logs every header, a session token among them; whoever wants that must ask it by name."""
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
