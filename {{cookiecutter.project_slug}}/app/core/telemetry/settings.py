"""What asks for telemetry."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# As the SDK reads them. https://opentelemetry.io/docs/specs/otel/protocol/exporter/
_is_header = re.compile(r"\s*[!#-'*+\-.0-9A-Z^-z|~]+\s*=[ !#-+\--:<-\[\]-~]*").fullmatch


def _is_endpoint(url: SecretStr) -> SecretStr:
    """Refuse a secret in a URL: what cannot be sent is logged with its path and query."""
    try:
        parts = urlsplit(url.get_secret_value())
    except ValueError:  # whose message may show what it could not read
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it has to be an http:// or https:// URL")
    if parts.username is not None or parts.query:
        raise ValueError("what is secret belongs into OTEL_EXPORTER_OTLP_HEADERS")
    return url


def _are_headers(text: SecretStr) -> SecretStr:
    """Refuse what the SDK would leave out, and show in the log."""
    for header in filter(str.strip, text.get_secret_value().split(",")):
        decoded = unquote(header)
        if not (_is_header(header) and decoded.isascii() and decoded.isprintable()):
            raise ValueError("it has to be name=value,name=value, each value URL-encoded")
    return text


Exporter = Literal["otlp", "none"]
Protocol = Literal["http/protobuf"]
Endpoint = Annotated[SecretStr, AfterValidator(_is_endpoint)]
Headers = Annotated[SecretStr, AfterValidator(_are_headers)]


class TelemetrySettings(BaseSettings):
    """OpenTelemetry's own variables: what switches it on, and what would fail later, or tell a secret.

    The SDK reads them and many others in the environment, and not in `.env`: so these are no part of
    `Settings`. https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    otel_sdk_disabled: bool = False
    otel_traces_exporter: Exporter = "otlp"
    otel_metrics_exporter: Exporter = "otlp"
    otel_exporter_otlp_endpoint: Endpoint | None = None
    otel_exporter_otlp_traces_endpoint: Endpoint | None = None
    otel_exporter_otlp_metrics_endpoint: Endpoint | None = None
    otel_exporter_otlp_headers: Headers | None = None
    otel_exporter_otlp_traces_headers: Headers | None = None
    otel_exporter_otlp_metrics_headers: Headers | None = None
    otel_exporter_otlp_protocol: Protocol = "http/protobuf"
    otel_exporter_otlp_traces_protocol: Protocol = "http/protobuf"
    otel_exporter_otlp_metrics_protocol: Protocol = "http/protobuf"

    @model_validator(mode="before")
    @classmethod
    def _disregard_what_is_disabled(cls, values: dict[str, Any]) -> dict[str, Any]:
        disabled = str(values.get("otel_sdk_disabled")).strip().lower() == "true"
        return {"otel_sdk_disabled": True} if disabled else values

    @property
    def traces(self) -> bool:
        """Whether there is somewhere to send spans to."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return self.otel_traces_exporter == "otlp" and endpoint is not None

    @property
    def metrics(self) -> bool:
        """Whether there is somewhere to send metrics to."""
        endpoint = self.otel_exporter_otlp_metrics_endpoint or self.otel_exporter_otlp_endpoint
        return self.otel_metrics_exporter == "otlp" and endpoint is not None
