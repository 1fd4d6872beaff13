import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.artifacts.s3_location import S3Location
from registry.errors import UsageError

BUCKETS = st.from_regex(r"[a-z0-9][a-z0-9-]{1,30}[a-z0-9]", fullmatch=True)
PREFIXES = st.lists(st.from_regex(r"[A-Za-z0-9_=+,-][A-Za-z0-9!_.*'()=+,-]{0,9}", fullmatch=True), max_size=4)


@given(bucket=BUCKETS, parts=PREFIXES, slash=st.sampled_from(["", "/"]))
def test_a_location_and_its_url_are_inverse(bucket: str, parts: list[str], slash: str) -> None:
    location = S3Location(bucket, "/".join(parts))
    assert S3Location.parse(location.url + slash) == location
    assert S3Location.parse(location.url) == location
    assert location.key("sha256/ab") == "/".join([*parts, "sha256/ab"])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3:bucket/prefix", "begins with s3://"),
        ("s3://ab", "'ab' is no bucket's name"),
        ("s3://" + "a" * 64, "is no bucket's name"),
        ("s3://Bucket", "'Bucket' is no bucket's name"),
        ("s3://under_score", "is no bucket's name"),
        ("s3://-dash", "is no bucket's name"),
        ("s3://dot..dot", "is no bucket's name"),
        ("s3://dot.-dash", "is no bucket's name"),
        ("s3://bücket", "is no bucket's name"),
        ("s3://192.168.5.4/bucket", "AWS_ENDPOINT_URL"),
        ("s3://minio:9000/bucket", "AWS_ENDPOINT_URL"),
        ("s3://bucket/a/../b", "'..', which is no name"),
        ("s3://bucket/..", "'..', which is no name"),
        ("s3://bucket/./b", "'.', which is no name"),
        ("s3://bucket//b", "'', which is no name"),
        ("s3://bucket/b//", "'', which is no name"),
        ("s3://bucket/a%2e%2e", "letters, digits and"),
        ("s3://bucket/a b", "letters, digits and"),
        ("s3://bucket/a\\b", "letters, digits and"),
        ("s3://bucket/" + "a" * 513, "longer than 512"),
        ("s3://bucket/prefix?versionId=1", "after a '?' or '#'"),
        ("s3://bucket/prefix?", "after a '?' or '#'"),
        ("s3://bucket/prefix#part", "after a '?' or '#'"),
        ("s3://ann:secret@bucket/prefix", "holds credentials"),
        ("s3://@bucket/prefix", "holds credentials"),
        ("s3://bucket/a@b", "holds credentials"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match="artifact root") as refused:
        S3Location.parse(url)
    assert said in str(refused.value)


def test_all_problems_are_said_at_once_and_no_secret_is() -> None:
    with pytest.raises(UsageError) as refused:
        S3Location.parse("s3://ann:pass/word@B/../b?X-Amz-Signature=hidden#hidden")
    message = str(refused.value)
    for said in ("holds credentials", "after a '?'", "no bucket's name", "'..'"):
        assert said in message
    for secret in ("pass", "word", "ann", "hidden"):
        assert secret not in message
    with pytest.raises(UsageError) as refused:
        S3Location.parse("s3://ann:hidden/bucket")
    assert "hidden" not in str(refused.value)


@given(st.text())
def test_any_text_is_a_location_or_a_usage_error(text: str) -> None:
    try:
        location = S3Location.parse("s3://" + text)
    except UsageError:
        return
    assert S3Location.parse(location.url) == location
    assert ".." not in location.key("x").split("/")
