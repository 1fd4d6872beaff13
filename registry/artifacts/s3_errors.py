"""What botocore raises, in words: what failed, on which object, and what to do. Never what was sent or received."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from registry.errors import StorageError

_ROOT = "TRUNKLINE_ARTIFACT_ROOT"
_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE"
_REGION = (
    "the server sends the request elsewhere",
    "set AWS_DEFAULT_REGION to the bucket's region, or write AWS_ENDPOINT_URL as the server wants it (https://)",
)
_REFUSED = ("the credentials are refused", _CREDENTIALS)
_EXPIRED = ("the credentials have expired", "renew them (`aws sso login`, or new AWS_* variables)")
_FULL = ("the server has no space left", "free some there, then run the command again")
_BY_CODE = {
    "NoSuchBucket": ("there is no such bucket", f"create it, or correct {_ROOT}, AWS_ENDPOINT_URL or AWS_PROFILE"),
    "InvalidBucketName": ("this server allows no such bucket name", f"correct {_ROOT}"),
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidToken": _REFUSED,
    "AuthFailure": _REFUSED,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": ("this machine's clock is wrong by more than S3 allows", "set it"),
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "307": _REGION,
    "NotImplemented": ("the server cannot do this", "use one that knows all of S3's operations on objects"),
    "InvalidObjectState": ("the object is in an archive", "restore it there first, and keep blobs out of archives"),
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "507": _FULL,
}
_BY_CLASS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.NoAuthTokenError,
            exceptions.TokenRetrievalError,
            exceptions.SSOError,
            exceptions.LoginError,
        ),
        "there are no credentials that can be used",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (
        (exceptions.SSLError,),
        "{endpoint} cannot be trusted, by its certificate",
        "set AWS_CA_BUNDLE to the file of its authority, or correct AWS_ENDPOINT_URL",
    ),
    (
        (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.ProxyConnectionError),
        "{endpoint} cannot be reached",
        "check the network, HTTPS_PROXY, and AWS_ENDPOINT_URL where the bucket is not Amazon's",
    ),
    (
        (exceptions.ReadTimeoutError,),
        "{endpoint} is silent",
        "run the command again later",
    ),
)
_SHOWN_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_THROTTLED = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"})


@contextmanager
def translated(action: str, *, needs: str, endpoint: str) -> Iterator[None]:
    """Turns what botocore raises inside into a StorageError.

    Args:
        action: what was tried and on what, to follow "cannot".
        needs: the permission that it takes, such as s3:GetObject.
        endpoint: the server's address.
    """
    try:
        yield
    except ClientError as error:
        reason, remedy = _answered(error, needs)
        raise StorageError(f"cannot {action}: {reason}; {remedy}") from error
    except RecursionError:
        # Whoever asks botocore where a bucket is, and is sent on without a word, asks again. For ever.
        raise StorageError(f"cannot {action}: {'; '.join(_REGION)}") from None
    except ResponseParserError as error:
        raise StorageError(
            f"cannot {action}: {endpoint} does not answer as S3 does; check AWS_ENDPOINT_URL, and any proxy before it"
        ) from error
    except (BotoCoreError, HTTPError) as error:
        reason, remedy = _unanswered(error)
        raise StorageError(f"cannot {action}: {reason.format(endpoint=endpoint)}; {remedy}") from error


def error_code(error: ClientError) -> str:
    """S3's own code of an answer that was an error; the HTTP status of one without a body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _answered(error: ClientError, needs: str) -> tuple[str, str]:
    """What happened, and what to do."""
    answer = error.response.get("ResponseMetadata", {})
    status, code = answer.get("HTTPStatusCode", 0), error_code(error)
    if code in _BY_CODE:
        return _BY_CODE[code]
    shown = " ".join(dict.fromkeys([str(status), *_SHOWN_CODE.findall(code)[:1]]))
    if status in (401, 403):
        return f"access denied ({shown})", f"give the account {needs} there, or use other credentials"
    if status >= 500 or status == 429 or code in _THROTTLED:
        times = answer.get("RetryAttempts", 0) + 1
        return f"the server answered {shown}, {times} times", (
            "it is down, overloaded or no S3: run the command again later, or check AWS_ENDPOINT_URL"
        )
    if code == "400":  # an answer without a body, which could say more
        return "the request is refused (400)", _CREDENTIALS
    return f"the server answered {shown}", f"check that {_ROOT} and AWS_ENDPOINT_URL name an S3 bucket"


def _unanswered(error: Exception) -> tuple[str, str]:
    """The same, of a request without an answer; {endpoint} stands for the server."""
    for classes, reason, remedy in _BY_CLASS:
        if isinstance(error, classes):
            return reason, remedy
    return f"the connection to {{endpoint}} failed ({type(error).__name__})", "run the command again"
