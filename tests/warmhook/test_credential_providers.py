"""The kubelet's configuration of credential providers, and their answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmhook.credential_providers import (
    Answer,
    BadAnswer,
    BadProviders,
    Provider,
    cache_keys,
    read_answer,
    read_providers,
    request_for,
)
from warmhook.images import parse_reference
from warmhook.registry_credentials import Entry

V1 = "credentialprovider.kubelet.k8s.io/v1"
ECR = {
    "name": "ecr-credential-provider",
    "matchImages": ["*.dkr.ecr.*.amazonaws.com", "public.ecr.aws"],
    "defaultCacheDuration": "12h",
    "apiVersion": V1,
    "args": ["get-credentials"],
    "env": [{"name": "AWS_PROFILE", "value": "pull"}],
}
PROVIDER = Provider("p", ("*.example.com",), V1, 60.0)
IMAGE = parse_reference("a.example.com/team/web:1")
PASSWORD = "correct-horse-battery"


def config(*providers: Any, **fields: Any) -> dict[str, Any]:
    return {"c.yaml": {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig"}
            | {"providers": list(providers)} | fields}  # fmt: skip


def answer(**fields: Any) -> bytes:
    body = {"kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": "Registry"}
    return json.dumps(body | {"auth": {"*.example.com": {"username": "me", "password": PASSWORD}}} | fields).encode()


def test_the_configuration_of_a_kubelet_is_read_as_it_is() -> None:
    (provider,) = read_providers(config(ECR))
    assert provider == Provider(
        "ecr-credential-provider",
        ("*.dkr.ecr.*.amazonaws.com", "public.ecr.aws"),
        V1,
        12 * 3600.0,
        ("get-credentials",),
        (("AWS_PROFILE", "pull"),),
    )
    assert provider.fits(parse_reference("123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop/web:1"))
    assert not provider.fits(parse_reference("ghcr.io/shop/web:1"))


def test_several_files_are_one_configuration() -> None:
    files = {"1.yaml": config(ECR)["c.yaml"], "2.yaml": config(ECR | {"name": "acr"})["c.yaml"]}
    assert [provider.name for provider in read_providers(files)] == ["ecr-credential-provider", "acr"]


def test_a_provider_that_insists_on_the_token_of_a_pod_is_marked() -> None:
    tokens = {"serviceAccountTokenAudience": "x", "cacheType": "Token", "requireServiceAccount": True}
    optional = {**tokens, "requireServiceAccount": False}
    (needs,) = read_providers(config(ECR | {"tokenAttributes": tokens}))
    (may,) = read_providers(config(ECR | {"tokenAttributes": optional}))
    assert (needs.needs_token, may.needs_token) == (True, False)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        (config(), "providers are needed"),
        (config(ECR, ECR), "given twice"),
        (config(ECR, kind="KubeletConfiguration"), "no CredentialProviderConfig"),
        (config(ECR, apiVersion="v1"), "no CredentialProviderConfig"),
        (config(providers={}), "providers must be a list"),
        ({"c.yaml": []}, "c.yaml must be an object"),
        (config("ecr"), r"providers\[0\] must be an object"),
        (config(ECR | {"name": "../sh"}), "name must be the file name of a program"),
        (config(ECR | {"name": ".."}), "name must be the file name of a program"),
        (config(ECR | {"apiVersion": "v1"}), "apiVersion must be credentialprovider"),
        (config(ECR | {"matchImages": []}), "matchImages needs a registry"),
        (config(ECR | {"matchImages": [1]}), "matchImages must hold strings"),
        (config(ECR | {"defaultCacheDuration": None}), "must be a duration such as 12h"),
        (config(ECR | {"defaultCacheDuration": "-1s"}), "must be a duration such as 12h"),
        (config(ECR | {"defaultCacheDuration": 12}), "must be a duration such as 12h"),
        (config(ECR | {"args": "get"}), "args must be a list"),
        (config(ECR | {"env": [{"value": "x"}]}), "env must hold strings"),
        (config(ECR | {"tokenAttributes": "x"}), "tokenAttributes must be an object"),
    ],
)
def test_a_configuration_that_a_kubelet_refuses_is_refused_with_its_field(documents: Any, said: str) -> None:
    with pytest.raises(BadProviders, match=said):
        read_providers(documents)


def test_a_provider_is_asked_for_the_repository_without_tag_and_digest() -> None:
    assert json.loads(request_for(PROVIDER, IMAGE)) == {
        "kind": "CredentialProviderRequest",
        "apiVersion": V1,
        "image": "a.example.com/team/web",
    }


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(None, 60.0), ("0s", 0.0), ("0", 0.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("100ms", 0.1), ("5m0s", 300.0)],
)
def test_an_answer_has_credentials_and_how_long_they_hold(duration: str | None, seconds: float) -> None:
    assert read_answer(PROVIDER, answer(cacheDuration=duration)) == Answer(
        (Entry("*.example.com", "me", PASSWORD),), "Registry", seconds
    )


def test_an_answer_without_credentials_is_an_answer() -> None:
    assert read_answer(PROVIDER, answer(auth=None)).entries == ()


@pytest.mark.parametrize(
    "output",
    [
        b"",
        PASSWORD.encode(),
        b"\xff",
        b"[" * 100_000,
        b"[]",
        answer(kind="Secret"),
        answer(apiVersion="credentialprovider.kubelet.k8s.io/v1beta1"),
        answer(cacheKeyType="Host"),
        answer(cacheKeyType=["Image"]),
        answer(cacheDuration=PASSWORD),
        answer(cacheDuration="-5s"),
        answer(auth=[PASSWORD]),
        answer(auth={"a": PASSWORD}),
        answer(auth={"a": {"username": "me"}}),
        answer(auth={"a": {"username": "me", "password": PASSWORD + "\ud800"}}),
    ],
)
def test_an_answer_that_cannot_be_used_is_refused_and_not_repeated(output: bytes) -> None:
    with pytest.raises(BadAnswer) as raised:
        read_answer(PROVIDER, output)
    assert PASSWORD not in str(raised.value)


def test_an_answer_is_kept_for_the_repository_the_registry_or_all_images() -> None:
    assert cache_keys(PROVIDER, IMAGE) == {
        "Image": ("p", "a.example.com/team/web"),
        "Registry": ("p", "a.example.com"),
        "Global": ("p",),
    }
