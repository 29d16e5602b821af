"""How an image is named: what is read, how it is printed, and what is refused."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from warmhook.images import (
    NotAReference,
    Reference,
    canonical_host,
    from_event,
    is_digest,
    parse_reference,
)

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

label = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?", fullmatch=True)
port = st.integers(1, 65535).map(":{}".format)
dns_host = st.lists(label, min_size=2, max_size=3).map(".".join)
# Python 3.13 writes ::ffff:1.2.3.4, which is no host of a reference: https://github.com/distribution/reference
ipv6_host = st.ip_addresses(v=6).map("[{}]".format).filter(lambda host: "." not in host)
hosts = st.one_of(
    st.sampled_from(["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "localhost"]),
    st.tuples(dns_host | ipv6_host, st.just("") | port).map("".join),
    st.tuples(label, port).map("".join),
)
element = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,3})?", fullmatch=True)
repositories = st.lists(element, min_size=1, max_size=3).map("/".join)
tags = st.just("") | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", fullmatch=True)
digests = st.sampled_from(["", SHA256, SHA512])
references = st.tuples(hosts, repositories, tags, digests).map(
    lambda of: f"{of[0]}/{of[1]}" + (f":{of[2]}" if of[2] else "") + (f"@{of[3]}" if of[3] else "")
)


@given(references)
def test_canonical_form_reads_as_itself(text: str) -> None:
    reference = parse_reference(text)
    assert parse_reference(str(reference)) == reference


@given(hosts, repositories, tags, digests)
def test_event_and_text_about_one_image_agree(host: str, repository: str, tag: str, digest: str) -> None:
    assume(tag or digest)
    reference = from_event(host, repository, tag, digest)
    assert reference is not None
    assert parse_reference(str(reference)) == reference
    assert (reference.tag, reference.digest) == (tag, digest)


@given(st.text(max_size=30) | st.text("aB0.:/@-_[]", max_size=14))
def test_any_text_is_an_image_that_reads_as_itself_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except NotAReference:
        return
    assert parse_reference(str(reference)) == reference


@given(st.text("aB0.:/@-_[]", max_size=12), st.text("aB0./_-", max_size=8), st.text("aB0:.-", max_size=5))
def test_any_event_names_an_image_that_reads_as_itself_or_is_refused(host: str, repository: str, tag: str) -> None:
    try:
        reference = from_event(host, repository, tag)
    except NotAReference:
        return
    assert (reference is None) is (tag == "")
    assert reference is None or parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("bitnami/redis", "docker.io/bitnami/redis"),
        ("docker.io/nginx", "docker.io/library/nginx"),
        ("index.docker.io/nginx", "docker.io/library/nginx"),
        # Runtimes keep these names, so a Pod's image must be there under them.
        ("registry-1.docker.io/library/nginx", "registry-1.docker.io/library/nginx"),
        ("registry-1.docker.io/nginx", "registry-1.docker.io/nginx"),
        ("registry.hub.docker.com/bitnami/redis", "registry.hub.docker.com/bitnami/redis"),
        ("localhost/a", "localhost/a"),
        ("localhost:5000/a:1", "localhost:5000/a:1"),
        ("registry:5000/a", "registry:5000/a"),
        ("Harbor.Example.COM/a/b/c:V1", "Harbor.Example.COM/a/b/c:V1"),
        ("[::1]:5000/a", "[::1]:5000/a"),
        ("[2001:DB8::1]/a:1", "[2001:DB8::1]/a:1"),
        (f"a.io/b:1@{SHA256}", f"a.io/b:1@{SHA256}"),
        (f"a.io/b@{SHA512}", f"a.io/b@{SHA512}"),
        ("a.io:1/b", "a.io:1/b"),
        ("a.io:65535/b", "a.io:65535/b"),
        ("a.io/" + "b" * 255, "a.io/" + "b" * 255),
        ("a.io/b:" + "c" * 128, "a.io/b:" + "c" * 128),
    ],
)
def test_reference_is_read(text: str, canonical: str) -> None:
    assert str(parse_reference(text)) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("registry-1.docker.io/nginx:1", "docker.io/library/nginx:1"),
        ("registry-1.docker.io/library/nginx:1", "docker.io/library/nginx:1"),
        ("registry.hub.docker.com/bitnami/redis", "docker.io/bitnami/redis"),
        ("Docker.IO/nginx", "docker.io/library/nginx"),
        ("Harbor.Example.COM/a/b/c:V1", "harbor.example.com/a/b/c:V1"),
        (f"Harbor.Example.COM:443/a@{SHA256}", f"harbor.example.com:443/a@{SHA256}"),
    ],
)
def test_names_of_one_image_have_one_canonical_form(text: str, canonical: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == text
    assert str(reference.canonical) == canonical
    assert reference.canonical.written_as(reference) == reference


@given(hosts, repositories, tags, digests)
def test_an_event_is_in_canonical_form_and_agrees_with_every_spelling(
    host: str, repository: str, tag: str, digest: str
) -> None:
    assume(tag or digest)
    text = f"{host}/{repository}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    event = from_event(host, repository, tag, digest)
    assert event == parse_reference(text).canonical == parse_reference(text).canonical.canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        ":",
        "@",
        "Nginx",
        "a.io/",
        "a.io//b",
        "a.io/b/",
        "a.io/B",
        "a.io/b:",
        "a.io/b:-1",
        "a.io/b: 1",
        "a.io/b:1\n",
        "a.io/b:" + "c" * 129,
        "a.io/" + "b" * 256,
        "a" * 64 + "/" + "b" * 5000,
        "a.io/b@",
        f"a.io/b@{SHA256[:-1]}",
        f"a.io/b@{SHA256.upper()}",
        f"a.io/b@{SHA256}@{SHA256}",
        "a.io/b@sha1:" + "0" * 40,
        "a.io:0/b",
        "a.io:65536/b",
        "a.io:123456/b",
        "a.io:/b",
        "a.io:x/b",
        "::1/b",
        "::1:5000/b",
        "[::1/b",
        "[a.io]/b",
        "-a.io/b",
        "a-.io/b",
        "a..io/b",
        "https://a.io/b",
        "user:secret@a.io/b",
        "a.io/b?c=d",
        "a.io/b_-c",
        "a.io/b___c",
    ],
)
def test_text_that_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(NotAReference):
        parse_reference(text)


@pytest.mark.parametrize("text", ["Team/shop", "REGISTRY/shop:1"])
def test_upper_case_host_without_dot_or_port_is_refused(text: str) -> None:
    """Printed in lower case it would name another image, of Docker Hub."""
    with pytest.raises(NotAReference, match="path of Docker Hub"):
        parse_reference(text)


@pytest.mark.parametrize("hostile", ["a" * 100_000, "a.io/" + "b" * 100_000, "a.io/b:" + "c" * 100_000])
def test_refusal_does_not_repeat_a_hostile_text_in_full(hostile: str) -> None:
    refusals = []
    for read in (parse_reference, lambda text: from_event(text, "b", "1"), lambda text: from_event("a.io", text, "1")):
        with pytest.raises(NotAReference) as refusal:
            read(hostile)
        refusals.append(str(refusal.value))
    with pytest.raises(NotAReference) as refusal:
        from_event("a.io", "b", hostile)
    assert max(map(len, [*refusals, str(refusal.value)])) < 400


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1", "docker.io/library/nginx:1"),
        (f"nginx@{SHA256}", f"docker.io/library/nginx@{SHA256}"),
    ],
)
def test_default_tag_is_added_only_where_neither_tag_nor_digest_is(text: str, canonical: str) -> None:
    assert str(parse_reference(text, default_tag="latest")) == canonical


@pytest.mark.parametrize(
    ("text", "pulled"),
    [
        ("a.io/b:1", "a.io/b:1"),
        (f"a.io/b:1@{SHA256}", "a.io/b:1"),
        (f"a.io/b@{SHA256}", f"a.io/b@{SHA256}"),
        ("a.io/b", "a.io/b"),
    ],
)
def test_pull_is_by_tag_where_there_is_one(text: str, pulled: str) -> None:
    reference = parse_reference(text)
    assert reference.pull_name == pulled
    assert parse_reference(pulled) == reference.without_digest()


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_complete_digest(text: str) -> None:
    assert is_digest(text)


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", SHA256[:-1], SHA256 + "0", SHA256 + "\n", SHA256.upper(), SHA256.replace("sha256", "sha512")],
)
def test_digest_that_is_cut_or_misspelt_is_none(text: str) -> None:
    assert not is_digest(text)


@pytest.mark.parametrize(
    ("tag", "digest", "expected"),
    [
        ("1", "", "a.io/b:1"),
        ("1", SHA256, f"a.io/b:1@{SHA256}"),
        ("", SHA256, f"a.io/b@{SHA256}"),
        ("1", "sha256:0123...", "a.io/b:1"),
        (SHA256, "", f"a.io/b@{SHA256}"),
        (SHA256, SHA256, f"a.io/b@{SHA256}"),
        (SHA256, "sha256:0123...", f"a.io/b@{SHA256}"),
        ("sha256:0123...", SHA256, f"a.io/b@{SHA256}"),
        ("sha256-" + "0" * 64 + ".sig", "", "a.io/b:sha256-" + "0" * 64 + ".sig"),
    ],
)
def test_event_names_tag_and_digest(tag: str, digest: str, expected: str) -> None:
    assert str(from_event("a.io", "b", tag, digest)) == expected


@pytest.mark.parametrize(("tag", "digest"), [("", ""), ("", "sha256:0123..."), ("sha256:0123...", "")])
def test_event_without_tag_and_digest_names_nothing(tag: str, digest: str) -> None:
    assert from_event("a.io", "b", tag, digest) is None


def test_event_may_write_the_repository_in_mixed_case() -> None:
    assert from_event("GHCR.io", "Octo-Org/Shop", "V1") == Reference("ghcr.io", "octo-org/shop", "V1")


def test_event_of_docker_hub_gets_its_library() -> None:
    assert from_event("registry-1.docker.io", "nginx", "1") == Reference("docker.io", "library/nginx", "1")


@pytest.mark.parametrize(
    "host", ["", "registry", "a.io/b", "http://a.io", "a.io:0", "::1", "[abc]", "a.io\n", "a" * 257 + ".io"]
)
def test_event_of_a_host_that_no_reference_can_name_is_refused(host: str) -> None:
    with pytest.raises(NotAReference, match=re.escape(repr(host)[:100])):
        from_event(host, "b", "1")


@given(hosts)
def test_canonical_host_stays_as_it_is(host: str) -> None:
    assert canonical_host(canonical_host(host)) == canonical_host(host)


@pytest.mark.parametrize(
    ("written", "run"),
    [
        (f"a.io:5000/b:1@{SHA256}", f"a.io:5000/b@{SHA256}"),
        (f"a.io/b@{SHA256}", f"a.io/b@{SHA256}"),
        ("a.io/b:1", "a.io/b:1"),
    ],
)
def test_with_a_digest_the_tag_is_decoration(written: str, run: str) -> None:
    assert str(parse_reference(written).as_run) == run
