"""The CloudFront Function CurrentSite, run in a JavaScript engine: the rules of src/redirect.rs for `false`."""

import json

import pytest
from py_mini_racer import MiniRacer

import template as templates
from harness import ROOT


def handler_for(**paths):
    template = templates.load((ROOT / "cloudformation/edge.yaml").read_text())
    properties = template["Resources"]["CurrentSite"]["Properties"]
    assert properties["FunctionConfig"]["Runtime"] == "cloudfront-js-2.0"
    code = templates.Resolved(template, paths, "redirect-test").value(properties["FunctionCode"])
    assert len(code.encode()) <= 10_240, "CloudFront's quota for a function"
    engine = MiniRacer()
    engine.eval(code)

    def run(path, method="GET"):
        uri, mark, query = path.partition("?")
        request = json.dumps({"method": method, "uri": uri, "querystring": {}, "headers": {}})
        raw = json.dumps(query) if mark else "undefined"
        script = f"var r = {request}; r.rawQueryString = function () {{ return {raw}; }};"
        script += "JSON.stringify(handler({request: r}))"
        answer = json.loads(engine.eval(script))
        if "statusCode" not in answer:
            return answer["uri"]
        assert answer["headers"]["cache-control"]["value"] == "no-store"
        # The guard of src/visitor.rs, only at the root.
        guard = {"value": "1", "attributes": "Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"}
        assert answer.get("cookies") == ({"redirect-guard": guard} if paths.get("CurrentPath") == "/" else None)
        return f"{answer['statusCode']} {answer['headers']['location']['value']}"

    return run


@pytest.fixture(scope="module")
def handler():
    return handler_for()


@pytest.fixture(scope="module")
def at_root():
    return handler_for(CurrentPath="/", BetaPath="/beta")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # It adds the index page of a directory, without a redirect.
        ("/site/docs/", "/site/docs/index.html"),
        ("/site/docs/?q", "/site/docs/index.html"),
        ("/site/index.html", "/site/index.html"),
        ("/site/logo.svg", "/site/logo.svg"),
        ("/site/about", "/site/about"),
        ("/site/betamax/", "/site/betamax/index.html"),
        # Instead of the function: everyone gets the current site.
        ("/", "302 /site/index.html"),
        ("/?utm=a&b=%20c&b", "302 /site/index.html?utm=a&b=%20c&b"),
        ("/?", "302 /site/index.html"),
        ("/a/b.html?c", "302 /site/a/b.html?c"),
        ("/docs/", "302 /site/docs/index.html"),
        ("/sitemap.xml", "302 /site/sitemap.xml"),
        ("/site-map", "302 /site/site-map"),
        ("/site", "302 /site/index.html"),
        ("/site/", "302 /site/index.html"),
        ("/site?q", "302 /site/index.html?q"),
        ("/site/beta", "302 /site/index.html"),
        ("/site/beta/?q", "302 /site/index.html?q"),
        ("/site/beta/about.html?q", "302 /site/about.html?q"),
        ("/site/beta/OLD.HTM", "302 /site/OLD.HTM"),
        ("/site/beta/docs/", "302 /site/docs/index.html"),
        ("/site/beta/about", "302 /site/about"),
        # An asset of beta that no behavior could distinguish from a page.
        ("/site/beta/v1.2/logo.svg", "/site/beta/v1.2/logo.svg"),
        # No redirect leaves the prefix or goes to another host.
        ("//example.com/", "302 /site//example.com/index.html"),
        ("/\\example.com", "302 /site//example.com"),
        # A path that would be a page of beta becomes a page of the current site.
        ("/beta", "302 /site/index.html"),
        ("/beta/beta/about.html", "302 /site/about.html"),
    ],
)
def test_the_answer_to_each_path(handler, path, expected):
    assert handler(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # The site keeps its addresses.
        ("/", "/"),
        ("/index.html", "/index.html"),
        ("/docs/?q", "/docs/"),
        ("/about", "/about"),
        ("/betamax/", "/betamax/"),
        ("//example.com/", "//example.com/"),
        # Pages of beta redirect back to the current site, to the address without the prefix.
        ("/beta", "302 /"),
        ("/beta/?q", "302 /?q"),
        ("/beta/index.html?q", "302 /?q"),
        ("/beta/docs/index.html", "302 /docs/index.html"),
        ("/beta/about.html?q", "302 /about.html?q"),
        ("/beta/docs/", "302 /docs/"),
        ("/beta/beta/about", "302 /about"),
        ("/beta/v1.2/logo.svg", "/beta/v1.2/logo.svg"),
        # No redirect goes to another host.
        ("/beta//example.com/", "302 /example.com/"),
        ("/beta/\\example.com/", "302 /example.com/"),
        ("/beta/\t/example.com/", "302 /example.com/"),
        ("/beta/beta//\\/beta///example.com/", "302 /example.com/"),
    ],
)
def test_the_answer_to_each_path_at_the_root(at_root, path, expected):
    assert at_root(path) == expected


def test_beta_beside_the_current_site():
    handler = handler_for(CurrentPath="/site", BetaPath="/new")
    assert handler("/new/a/") == "302 /site/a/index.html"
    assert handler("/new/logo.svg") == "/new/logo.svg"
    assert handler("/beta/a") == "302 /site/beta/a"


def test_on_the_current_site_only_directories_need_the_function(handler):
    """So /site/*/ runs it, and /site/*, where each request would cost, does not."""
    for path in ("/site/a", "/site/a.css", "/site/a/b.html", "/site/a/.", "/site//a", "/site/betamax", "/site/..b"):
        assert handler(path) == path
        assert handler(f"{path}/") == f"{path}/index.html"


def test_other_methods_keep_method_and_body(handler):
    assert handler("/form", "POST") == "307 /site/form"
    assert handler("/form", "HEAD") == "302 /site/form"


def test_a_redirect_never_loops(handler):
    """The target of a redirect is served."""
    for path in ("/", "/a", "/a/", "/site", "/site/beta", "/site/beta/a", "/site/beta/beta/a", "/site/beta/site/beta/"):
        answer, hops = handler(path), 0
        while answer.startswith("302 "):
            hops += 1
            assert hops == 1, path
            answer = handler(answer.removeprefix("302 "))
        assert answer.startswith("/site/")
