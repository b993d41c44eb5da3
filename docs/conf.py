"""Sphinx's settings. ``nox -s docs`` builds with every warning an error."""

import builtins
import re
import sys
from importlib.metadata import version as installed_version

project = "trioloop"
copyright = "2026, trioloop contributors"
version = release = installed_version("trioloop")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_power_table.md"]  # a page includes that
html_theme = "furo"
html_title = f"trioloop {version}"

# Single backquotes in docstrings are references: `Reply`.
default_role = "py:obj"
primary_domain = "py"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page may include CHANGELOG.md, whose headings start anew

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False  # types are in the signatures: a colon after "Returns:" is punctuation

# Every reference to trioloop must lead somewhere (`-n`). References to other projects cannot: no
# intersphinx, because it fetches their inventories, and the documentation must build offline.
elsewhere = {
    *sys.stdlib_module_names,
    *("anyio", "fastapi", "hypercorn", "hypothesis", "starlette", "trio", "typing_extensions"),
}
nitpick_ignore = [
    # In signatures, but nothing that a user makes or derives from.
    ("py:class", "trioloop._core._handler.Handler"),
    ("py:class", "trioloop._web._hub.Endpoint"),
    ("py:class", "trioloop.testing._exchange.Exchange"),
    ("py:class", "trioloop.testing._messages.Eighths"),
    # Where `__module__` says trioloop, autodoc looks there for the names in annotations, in vain.
    ("py:class", "Application"),
    ("py:class", "Config"),
    ("py:class", "Request"),
    ("py:class", "Strategy"),
]
nitpick_ignore_regex = [
    (r"py:.*", rf"({'|'.join(map(re.escape, sorted(elsewhere)))})(\..+)?"),
    (r"py:.*", rf"({'|'.join(dir(builtins))})"),  # None, str, TypeError
    (r"py:.*", r"trioloop\.(testing\.)?_.+T"),  # MessageT: autodoc has no entry for type variables
]


def resolve_to_facade(app, env, node, contnode):
    """Let ``trioloop._core._ref.HandlerRef`` lead to ``trioloop.HandlerRef``, and `Down` to its own.

    An annotation such as ``HandlerRef[Any]`` remembers the module in which it was written. The test
    kit's docstrings name what is in the other facade.
    """
    module, _, name = node.get("reftarget", "").rpartition(".")
    elsewhere = module and not module.startswith(("trioloop._", "trioloop.testing._"))
    if elsewhere or node.get("refdomain") != "py":
        return None
    python = env.get_domain("py")
    where = (env, node["refdoc"], app.builder, node["reftype"])
    candidates = (
        python.resolve_xref(*where, f"{facade}.{name}", node, contnode)
        for facade in ("trioloop", "trioloop.testing")
    )
    return next(filter(None, candidates), None)


def setup(app):
    """Called by Sphinx."""
    app.connect("missing-reference", resolve_to_facade)
