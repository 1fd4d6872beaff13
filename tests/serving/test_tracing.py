import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from serving.tracing import tracer_provider


def test_spans_are_sent_to_the_collector_that_the_environment_names():
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_): ...

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        provider = tracer_provider({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}/"})
        provider.get_tracer("test").start_span("POST /predict").end()
        provider.shutdown()
        collector.shutdown()
        thread.join()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"POST /predict" in body
    assert b"trunkline" in body


def test_an_endpoint_of_traces_alone_is_enough():
    provider = tracer_provider({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/own/path"})
    assert provider is not None
    provider.shutdown()


def test_nothing_is_made_or_imported_where_it_names_none():
    for environ in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here", "OTEL_SDK_DISABLED": "true"}):
        assert tracer_provider(environ) is None
    program = "import sys, serving.http.application; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0
