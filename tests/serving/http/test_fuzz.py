"""Requests that the OpenAPI document allows, and many that it does not: none breaks the server or what it promises."""

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


def no_failure_of_the_server(context, response, case):
    """504 is none: a request may ask to be answered within a nanosecond."""
    assert response.status_code < 500 or response.status_code == 504, response.content


CHECKS = [no_failure_of_the_server, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_breaks_the_server_or_gets_what_the_document_does_not_say(server, mode):
    url = f"http://127.0.0.1:{server.port}"
    document = schemathesis.openapi.from_dict(server.get("/openapi.json").json)
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) == 13
    if mode is GenerationMode.NEGATIVE:
        operations = [operation for operation in operations if operation.body]
    with requests.Session() as session:
        for operation in operations:

            @EXAMPLES
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case):
                case.call_and_validate(base_url=url, session=session, checks=CHECKS, timeout=30)

            check()
    assert server.predict(text="hello").status == 200
