"""These tests need torch and transformers, and are not collected without."""

import importlib.util

HAVE = all(importlib.util.find_spec(name) for name in ('torch', 'transformers'))
collect_ignore_glob = [] if HAVE else ['*.py']
