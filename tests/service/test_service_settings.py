"""Settings of the service: flags before variables before defaults, and what is wrong with them said by name."""

import pytest

from khabar.inference.service.settings import read_settings
from khabar.models.errors import KhabarError


def test_flags_win_over_variables_and_variables_over_defaults(monkeypatch):
    monkeypatch.setenv("KHABAR_PORT", "9000")
    monkeypatch.setenv("KHABAR_MAX_ARTICLES", "9")
    monkeypatch.setenv("KHABAR_CORS_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("KHABAR_MODEL", "")
    settings = read_settings(port=9001, device=None)
    assert (settings.port, settings.max_articles, settings.max_body_bytes) == (9001, 9, 8 * 2**20)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.model == "embedded"
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KHABAR_TOKEN_FILE", "KHABAR_TOKENS_FILE"),
        ("KHABAR_MAX_ARTICELS", "KHABAR_MAX_ARTICLES"),
        ("KHABAR_CORS_ORIGIN", "KHABAR_CORS_ORIGINS"),
    ],
)
def test_a_slip_in_a_variables_name_is_an_error(monkeypatch, name, meant):
    # These are others' to set, such as a cluster's that names the addresses of a service called khabar.
    for other in ("KHABAR_SHARED", "KHABAR_SERVICE_HOST", "KHABAR_SERVICE_PORT", "KHABAR_PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(other, "tcp://10.0.0.1:8000")
    assert read_settings().tokens_file is None
    monkeypatch.setenv(name, "1")
    with pytest.raises(KhabarError, match=f"{name} is not a setting; did you mean {meant}"):
        read_settings()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 70_000}, r"port \(--port, KHABAR_PORT\): .* 65535"),
        ({"runtime": "tf"}, "runtime .*'torch', 'compiled' or 'onnx'"),
        ({"head_seconds": float("inf")}, r"head_seconds .*--head-seconds.*finite"),
        ({"cors_origins": ("https://news.example/",)}, '"https://news.example/" is no origin; allowed: https://host'),
        ({"cors_origins": ("news.example",)}, '"news.example" is no origin'),
        ({"max_articles": 0}, "--max-articles, KHABAR_MAX_ARTICLES"),
        ({"host": "0.0.0.0"}, 'host "0.0.0.0" lets others .* --tokens-file FILE, --no-auth'),
        ({"host": "news.example"}, "--no-auth"),
        ({"host": "::"}, "--no-auth"),
        ({"tokens_file": "x", "no_auth": True}, "do not go together"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_flag_and_variable(flags, message):
    with pytest.raises(KhabarError, match=message):
        read_settings(**flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"host": "0.0.0.0", "no_auth": True},
        {"host": "0.0.0.0", "tokens_file": "x"},
        {"host": "::1"},
        {"host": "127.1.2.3"},
    ],
)
def test_an_address_that_others_reach_takes_tokens_or_a_word(flags):
    assert read_settings(**flags).host == flags["host"]
