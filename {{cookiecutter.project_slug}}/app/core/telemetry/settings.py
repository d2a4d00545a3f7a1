"""The OTEL_ variables that switch telemetry on, and their validation."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# The syntax that the SDK accepts: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
_is_header = re.compile(r"\s*[!#-'*+\-.0-9A-Z^-z|~]+\s*=[ !#-+\--:<-\[\]-~]*").fullmatch


def _is_endpoint(url: SecretStr) -> SecretStr:
    """Refuse secrets in the URL: the SDK logs path and query of a URL that it cannot reach."""
    try:
        parts = urlsplit(url.get_secret_value())
    except ValueError:  # the message may contain a password
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must be an http:// or https:// URL")
    if parts.username is not None or parts.query:
        raise ValueError("it must not contain a secret: use OTEL_EXPORTER_OTLP_HEADERS")
    return url


def _are_headers(text: SecretStr) -> SecretStr:
    """Refuse headers that the SDK would ignore, and write to the log."""
    for header in filter(str.strip, text.get_secret_value().split(",")):
        decoded = unquote(header)
        if not (_is_header(header) and decoded.isascii() and decoded.isprintable()):
            raise ValueError("it must be name=value,name=value, each value URL-encoded")
    return text


Exporter = Literal["otlp", "none"]
Protocol = Literal["http/protobuf"]
Endpoint = Annotated[SecretStr, AfterValidator(_is_endpoint)]
Headers = Annotated[SecretStr, AfterValidator(_are_headers)]


class TelemetrySettings(BaseSettings):
    """The OpenTelemetry variables that switch it on, fail late when wrong, or could leak a secret.

    The SDK reads these and many others from the environment, not from `.env`, so they are not in
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
    def _ignore_all_if_disabled(cls, values: dict[str, Any]) -> dict[str, Any]:
        disabled = str(values.get("otel_sdk_disabled")).strip().lower() == "true"
        return {"otel_sdk_disabled": True} if disabled else values

    @property
    def traces(self) -> bool:
        """Whether spans are exported."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return self.otel_traces_exporter == "otlp" and endpoint is not None

    @property
    def metrics(self) -> bool:
        """Whether metrics are exported."""
        endpoint = self.otel_exporter_otlp_metrics_endpoint or self.otel_exporter_otlp_endpoint
        return self.otel_metrics_exporter == "otlp" and endpoint is not None
