"""Contract 4, `download`: where the bytes come from (object store, gateway, presigned URLs) and who is asked before."""

from __future__ import annotations

import random

import pytest

from gateway import Fault
from scripted import RUN, Kept, Say, Scripted
from test_connections import CONTENT as BIG
from test_connections import FIRST, overlap, small, spans
from test_download import CONTENT, OTHER, QUICK, WHOLE, on, synced, target
from wire import Wire, reply

__all__ = ["small", "synced", "target"]  # fixtures

OBJECT = {"type": "object", "bucket": "exports", "key": "acme/run 1/export.tar.zst"}


def place(**more):
    """The distribution of a run whose bundle is in the object store, too."""
    return [{"type": "http"}, {**OBJECT, **more}]


@pytest.fixture
def get(cli, target):
    """get(gateway, store): the download with that object store configured."""

    def run(gateway, store=None, *options, path=""):
        env = {"STELLA_EXPORT_OBJECT_ENDPOINT": store.url + path} if store is not None else {}
        done = cli("download", RUN, "--output", target, *QUICK, *options, gw=gateway, env=env)
        assert "Traceback" not in done.err
        return done, Kept(target)

    return run


def is_stranger(server):
    """True when no request there had anything of the user's."""
    names = {"authorization", "dpop", "x-stella-tenant", "traceparent", "cookie", "idempotency-key"}
    return all(names.isdisjoint(seen.headers) for seen in server.seen) and Scripted.token.encode() not in server.bytes


# ---- object store --------------------------------------------------------------------------------

@pytest.mark.parametrize(("path", "route"), [("", ""), ("/", ""), ("/s3/", "/s3"), ("/a%20b", "/a%20b")])
def test_object_store_first_without_credentials(get, path, route):
    with Scripted(CONTENT) as store, Scripted(CONTENT, distribution=place()) as gateway:
        done, kept = get(gateway, store, path=path)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert (store.asked, gateway.asked, done.json()["source"]) == ([WHOLE], [], "object store")
    assert store.seen[0].target == f"{route}/exports/acme/run%201/export.tar.zst"
    assert is_stranger(store)


@pytest.mark.parametrize("distribution", [
    [{"type": "http"}], [], None, "object", [None, 7, "object"], place(type="s3"), place(bucket=""),
    place(key=""), place(bucket="."), place(key="../x"), place(key="a//b"), place(key="/a"),
    place(bucket="..", key="x"), place(key=7)], ids=str)
def test_no_object_of_the_runs_no_request_there(get, distribution):
    with Scripted(CONTENT) as store, Scripted(CONTENT, distribution=distribution) as gateway:
        done, kept = get(gateway, store)
    assert (done.code, kept.target == CONTENT, store.bytes, gateway.asked) == (0, True, b"", [WHOLE]), done


def test_no_object_store_configured_no_request_there(get):
    with Scripted(CONTENT, distribution=place()) as gateway:
        done, _ = get(gateway)
    assert (done.code, gateway.asked) == (0, [WHOLE]), done


@pytest.mark.parametrize("key", ["a?b=c", "a#b", "a%2fb", "\u00e4 \u4e2d", "a\r\nX: y", "a\\b", "a@h", ";v=1"])
def test_key_is_a_path_and_no_more(get, key):
    with Scripted(CONTENT) as store, Scripted(CONTENT, distribution=place(key=key)) as gateway:
        assert get(gateway, store)[0].code == 0
    target = store.seen[0].target
    assert target.startswith("/exports/")
    assert target.count("/") == 2
    assert target.isascii()
    assert not {"?", "#", " ", "\\"} & set(target)
    assert "x" not in store.seen[0].headers


# What the object store answers: what the gateway is asked for where the digest is known, and where it is not.
FAILURES = {
    "404": ([], Say(status=404), WHOLE, WHOLE), "403": ([], Say(status=403), WHOLE, WHOLE),
    "401": ([], Say(status=401), WHOLE, WHOLE), "503": ([], Say(status=503), WHOLE, WHOLE),
    "no HTTP": ([], Say(raw=b"nonsense\r\n\r\n"), WHOLE, WHOLE), "a page": ([], Say(status=202), WHOLE, WHOLE),
    "broken off": ([Say(cut=1000)], Say(status=404), "1000-", WHOLE),
    "broken off again and again": ([], Say(cut=400), "1600-", WHOLE),
    "another size": ([], Say(content=CONTENT + b"x"), WHOLE, WHOLE),
}


@pytest.mark.parametrize("digest", [True, False], ids=["digest known", "no digest"])
@pytest.mark.parametrize("case", FAILURES)
def test_gateway_when_the_object_store_fails(get, case, digest):
    """.part is carried over only where the run's digest says that both have the same; an ETag never is."""
    script, after, asked, without = FAILURES[case]
    store = Scripted(CONTENT, *script, after=after)
    with store, Scripted(CONTENT, distribution=place(), digest=digest) as gateway:
        done, kept = get(gateway, store, "--retries", "3")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert gateway.asked == [asked if digest else without]
    assert "going on with the gateway" in done.err
    assert done.json()["source"] == "gateway"
    assert is_stranger(store)


def test_object_store_that_is_not_there(get):
    with Scripted(CONTENT) as store:
        pass
    with Scripted(CONTENT, distribution=place()) as gateway:
        done, kept = get(gateway, store, "--retries", "1")
    assert (done.code, kept.target == CONTENT, gateway.asked) == (0, True, [WHOLE]), done


def test_object_store_with_other_bytes_does_not_end_it(get):
    """A stale object: the gateway still has the right one."""
    with Scripted(OTHER) as store, Scripted(CONTENT, distribution=place()) as gateway:
        done, kept = get(gateway, store)
    assert (done.code, kept.names) in ((0, ["bundle"]), (20, [])), done
    assert kept.target in (CONTENT, None)


@pytest.mark.parametrize("digest", [True, False], ids=["digest known", "no digest"])
def test_digest_header_of_the_object_store_is_not_the_gateways(get, digest):
    head = {"X-Export-Digest": "sha256:" + "0" * 64}
    store = Scripted(CONTENT, Say(cut=1000), after=Say(status=404), head=head)
    with store, Scripted(CONTENT, distribution=place(), digest=digest) as gateway:
        done, kept = get(gateway, store)
    assert (done.code, kept.target == CONTENT) == (0, True), done


def test_resume_knows_which_source_the_part_is_from(get):
    """An ETag means something to the server that gave it alone (8.8.3)."""
    store = Scripted(CONTENT, Say(cut=1000), after=Say(cut=0))
    with store, Scripted(CONTENT, distribution=place(), after=Say(status=503)) as gateway:
        done, kept = get(gateway, store, "--retries", "0")
        assert (done.code, kept.part) == (21, CONTENT[:1000]), done
        assert kept.facts["source"] in ("object store", "gateway")
        gateway.asked.clear()
        gateway.after = Say()
        done, kept = get(gateway, None, "--resume")
    assert (done.code, kept.target == CONTENT) == (0, True), done
    assert gateway.asked == ["1000-"]


def test_several_connections_to_the_object_store_and_the_rest_from_the_gateway(get):
    store = Scripted(BIG, *[Say()] * 6, after=Say(status=404))
    with store, Scripted(BIG, distribution=place()) as gateway:
        done, kept = get(gateway, store, "--connections", "4")
    assert (done.code, kept.names, kept.target == BIG) == (0, ["bundle"], True), done
    assert store.asked[0] == FIRST
    assert is_stranger(store)
    assert len(gateway.asked) >= 1
    assert overlap(spans(gateway.asked), [(0, 16384)]) == 0


@pytest.mark.parametrize("source", ["gateway", "object store"])
def test_part_without_a_digest_is_given_up_only_for_an_answer(get, source):
    """Only the source that it is from can go on with it: that one is asked first."""
    first = {"object store": [Say(cut=1000)], "gateway": [Say(status=404)]}[source]
    store = Scripted(CONTENT, *first, after=Say(status=503))
    with store, Scripted(CONTENT, Say(cut=1000), after=Say(status=503), distribution=place(), digest=False) as gateway:
        if source == "object store":
            gateway.script = []
        done, kept = get(gateway, store, "--retries", "0")
        assert (done.code, kept.part == CONTENT[:1000], kept.facts["source"]) == (21, True, source), done
        done, kept = get(gateway, store, "--retries", "0", "--resume")  # a bad day
        assert (done.code, kept.part == CONTENT[:1000], kept.facts["source"]) == (21, True, source), done
        gateway.asked.clear()
        store.asked.clear()
        gateway.after = store.after = Say()
        done, kept = get(gateway, store, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert (store.asked, gateway.asked) == (([], [on(1000)]) if source == "gateway" else ([on(1000)], []))


# ---- redirects and presigned URLs ------------------------------------------------------------------

def redirected(gateway, *urls):
    """The gateway's route leads to one URL after the other, and to the last from then on."""
    says = [Say(status=302, head={"Location": url}) for url in urls]
    gateway.script, gateway.after = says[:-1], says[-1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_elsewhere_gets_the_range_and_no_credentials(get, status):
    with Scripted(CONTENT, Say(cut=1000)) as store, Scripted(CONTENT) as gateway:
        gateway.after = Say(status=status, head={"Location": f"{store.url}/b?X-Sig=presigned"})
        done, kept = get(gateway)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert store.asked == gateway.asked == [WHOLE, on(1000)]
    assert is_stranger(store)
    assert "presigned" not in done.out + done.err


@pytest.mark.parametrize("expired", [400, 401, 403, 404, 410])
def test_presigned_url_that_expires_is_fetched_again_from_the_gateway(get, expired):
    """The first broke off, the second had expired when it was asked: the third does it."""
    with Scripted(CONTENT, Say(cut=1000), Say(status=expired)) as store, Scripted(CONTENT) as gateway:
        redirected(gateway, *(f"{store.url}/b?X-Sig={number}" for number in (1, 2, 3)))
        done, kept = get(gateway)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert gateway.asked == store.asked == [WHOLE, on(1000), on(1000)]
    assert [seen.target for seen in store.seen] == [f"/b?X-Sig={number}" for number in (1, 2, 3)]
    assert all(seen.headers["authorization"] == f"Bearer {gateway.token}" for seen in gateway.seen)
    assert is_stranger(store)


def test_presigned_url_that_never_worked_is_an_error(get):
    with Scripted(CONTENT, after=Say(status=403)) as store, Scripted(CONTENT) as gateway:
        redirected(gateway, f"{store.url}/b?X-Sig=presigned")
        done, kept = get(gateway)
    assert (done.code, kept.names, len(store.asked)) == (11, [], 1), done
    assert "credentials stay with the gateway" in done.err
    assert "presigned" not in done.out + done.err


@pytest.mark.parametrize("expired", [403, 410])
def test_presigned_urls_of_several_connections_that_expire(get, expired):
    with Scripted(BIG, *[Say()] * 5, *[Say(status=expired)] * 4) as store, Scripted(BIG) as gateway:
        redirected(gateway, f"{store.url}/b?X-Sig=1")
        done, kept = get(gateway, None, "--connections", "4")
    assert (done.code, kept.names, kept.target == BIG) == (0, ["bundle"], True), done
    assert len(gateway.asked) == len(store.asked)
    assert is_stranger(store)


@pytest.mark.parametrize(("location", "code"), [
    ("https://127.0.0.1:1/", 21), ("ftp://127.0.0.1/b", 1), ("http://stella.example/b", None), ("//", 1),
    ("http://user:secret-word@127.0.0.1/b", 1)])
def test_redirect_to_a_place_that_cannot_be(get, location, code):
    with Scripted(CONTENT) as gateway:
        redirected(gateway, location)
        done, kept = get(gateway, None, "--retries", "0")
    assert done.code != 0, done
    assert code is None or done.code == code
    assert kept.names == []
    assert "secret-word" not in done.err


# ---- the registry is asked before -------------------------------------------------------------------

DIGEST = "sha256:" + "a" * 64
REGISTRY = {  # what the registry answers: exit code, what stella says
    "the digest": (reply(200, b"", f"Docker-Content-Digest: {DIGEST}"), 0, ""),
    "another digest": (reply(200, b"", "Docker-Content-Digest: sha256:" + "b" * 64), 20, "--offline skips this check"),
    "it is gone": (reply(404), 20, "--offline skips this check"),
    "no answer": (b"", 21, ""),
}


@pytest.mark.parametrize("offline", [False, True], ids=["", "offline"])
@pytest.mark.parametrize("case", REGISTRY)
def test_registry_is_asked_before_any_byte_unless_offline(get, case, offline):
    answer, code, says = REGISTRY[case]
    with Wire(answer) as registry, Scripted(CONTENT) as gateway:
        gateway.run["distribution"] = [{"type": "oci", "ref": f"{registry.origin}/e/acme:1", "digest": DIGEST}]
        done, kept = get(gateway, None, "--retries", "1", *(("--offline",) if offline else ()))
    assert done.code == (0 if offline else code), done
    assert (registry.bytes == b"") == offline
    assert gateway.asked == ([] if code and not offline else [WHOLE])
    assert kept.names == (["bundle"] if done.code == 0 else [])
    assert says in done.err or offline
    assert gateway.token.encode() not in registry.bytes


# ---- the gateway's own answers -----------------------------------------------------------------------

def test_gateway_of_the_tests_with_every_source(cli, gw, target):
    """The other server of these tests, and real signed documents: object store, then gateway."""
    content = random.Random(5).randbytes(200_000)
    run = gw.make_bundle_run(content)
    words = ("download", run["runId"], "--output", target, "--offline", "--connections", "1", *QUICK)
    env = {"STELLA_EXPORT_OBJECT_ENDPOINT": gw.object_url + "/objects"}
    gw.order(Fault(path="/objects/", cut=100_000), Fault(path="/objects/", status=404, times=-1))
    done = cli(*words, gw=gw, env=env)
    assert (done.code, target.read_bytes() == content) == (0, True), done
    asked = gw.find_requests(path="/objects/|/download$")
    assert [(request.origin, request.headers.get("Range")) for request in asked] == [
        ("object", None), ("object", "bytes=100000-"), ("gateway", "bytes=100000-")]
    assert gw.object_authorizations == []
