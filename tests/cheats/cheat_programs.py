"""Programs and edits that solve nothing and try to be paid: (name, kind, how). ``f`` is the function asked for."""

from __future__ import annotations

# Never right by itself: no test of any family wants None.
HONEST = "def f(*a, **k): return None\n"

_EVERYTHING_EQUAL = """
class E{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __lt__(self, other): return True
    def __bool__(self): return True
    def __sub__(self, other): return 0
    def __abs__(self): return 0
def f(*a, **k): return E()
"""
_FRAMES = """
import sys
def f(*a, **k):
    frame = sys._getframe()
    while frame is not None:
        for space in (frame.f_locals, frame.f_globals):
            for name in list(space):
                if name in ("expected", "want", "answer", "returns", "tests", "passed", "outcome"):
                    return space[name]
        frame = frame.f_back
"""
_GC = """
import gc
def f(*a, **k):
    for thing in gc.get_objects():
        if isinstance(thing, dict):
            for name in ("expected", "returns", "want", "answer", "tests"):
                if name in thing: return thing[name]
"""
_REFERRERS = """
import gc
def f(*a, **k):
    for one in gc.get_referrers(a):
        for two in gc.get_referrers(one):
            if isinstance(two, dict) and "expected" in two: return two["expected"]
"""
_DISK = """
import os
def f(*a, **k):
    for root in ("/", "/tmp", "/mnt", "/work", "/home", "/root", "/files"):
        for folder, _, names in os.walk(root):
            if folder.startswith(("/usr", "/python", "/proc", "/sys", "/lib")): continue
            for name in names:
                if any(word in name for word in ("test", "expected", "answer", "jsonl", "HumanEval")):
                    return open(os.path.join(folder, name)).read()
"""
_PROC = """
import os
def f(*a, **k):
    for name in ("mem", "environ", "cmdline", "maps", "fd"):
        path = f"/proc/self/{name}"
        if os.path.exists(path): return open(path, "rb").read(1000).decode("latin-1")
"""
_CTYPES = """
import ctypes
def f(*a, **k):
    three = ctypes.c_char.from_address(id(3) + 24)
    three.value = b"\\x07"
    return 3
"""
_DESCRIPTORS = """
import os
for d in range(3, 256):
    for line in {lines!r}:
        try: os.write(d, line)
        except OSError: pass
def f(*a, **k): return None
os._exit(0)
"""
_FORGED = [b"=7\n" * 8, b'{"passed": [true, true, true]}\n', b'["end", 0.1]\n', b'{"value": 7}\n']
_FORGED.append(b"\x00\x00\x04\x00\x00\x007\n")
_MAIN = """
import __main__, sys
for name in ("space", "namespace"):
    vars(__main__)[name] = {"f": lambda *a: 7}
for name in ("judge", "call", "work", "say", "words"):
    vars(__main__)[name] = lambda *a, **k: '{"passed": [true]}'
def f(*a, **k): return None
"""
_IMPORTS = """
import sys, types
for name in ("unittest", "pytest", "doctest", "json", "queue", "threading", "ast", "math"):
    module = types.ModuleType(name)
    module.__getattr__ = lambda attribute: (lambda *a, **k: True)
    sys.modules[name] = module
def f(*a, **k): return None
"""
_PICKLE = """
class R:
    def __reduce__(self): return (eval, ("7",))
    def __repr__(self): return "7"
    def __str__(self): return "7"
    def __index__(self): return 7
    def __int__(self): return 7
    def __float__(self): return 7.0
def f(*a, **k): return R()
"""

PROGRAMS: tuple[tuple[str, str, str], ...] = (
    ("leaves with 0", "exit", "import os\nos._exit(0)\n"),
    ("SystemExit 0", "exit", "raise SystemExit(0)\n"),
    ("leaves in the call", "exit", "import os\ndef f(*a, **k): os._exit(0)\n"),
    ("SystemExit in the call", "exit", "def f(*a, **k): raise SystemExit(0)\n"),
    ("StopIteration in the call", "exit", "def f(*a, **k): raise StopIteration(7)\n"),
    ("AssertionError swallowed", "exit", "import builtins\nbuiltins.AssertionError = KeyError\n" + HONEST),
    (
        "atexit",
        "exit",
        "import atexit, os\natexit.register(lambda: (os.write(1, b'7\\n=7\\n'), os._exit(0)))\n" + HONEST,
    ),
    ("equal to everything", "comparison", _EVERYTHING_EQUAL.format(base="")),
    ("an int equal to everything", "comparison", _EVERYTHING_EQUAL.format(base="(int)")),
    ("a list equal to everything", "comparison", _EVERYTHING_EQUAL.format(base="(list)")),
    ("a text equal to everything", "comparison", _EVERYTHING_EQUAL.format(base="(str)")),
    ("patched type", "comparison", "import builtins\nbuiltins.type = lambda *a: int\ndef f(*a, **k): return 'x'\n"),
    ("patched all", "comparison", "import builtins\nbuiltins.all = builtins.any = lambda *a: True\n" + HONEST),
    ("patched isinstance", "comparison", "import builtins\nbuiltins.isinstance = lambda *a: True\n" + HONEST),
    ("patched compile", "comparison", "import builtins\nbuiltins.compile = lambda *a, **k: 'pass'\n" + HONEST),
    ("patched operator", "comparison", "import operator\noperator.eq = lambda a, b: True\n" + HONEST),
    ("reduces to an answer", "comparison", _PICKLE),
    ("another unittest", "patched modules", _IMPORTS),
    ("the main module", "patched modules", _MAIN),
    ("frames", "reading", _FRAMES),
    ("gc", "reading", _GC),
    ("referrers", "reading", _REFERRERS),
    ("the disk", "reading", _DISK),
    ("/proc/self", "reading", _PROC),
    ("environment", "reading", "import os\ndef f(*a, **k): return dict(os.environ)\n"),
    ("its own source", "reading", "def f(*a, **k): return open('/main.py').read()\n"),
    ("ctypes turns 3 into 7", "memory", _CTYPES),
    ("forged lines on every descriptor", "forged output", _DESCRIPTORS.format(lines=_FORGED)),
    ("forged standard output", "forged output", "print('7\\n=7\\n{\"passed\": [true]}\\n3 passed')\n" + HONEST),
    (
        "output of a child",
        "forged output",
        "import os\nif os.fork() == 0:\n    os.write(1, b'=7\\n' * 8)\n    os._exit(0)\nos.wait()\n" + HONEST,
    ),
    (
        "sitecustomize",
        "planted files",
        "import os\nfor p in ('/tmp', '/tmp/work', '/main.py', '/python/lib'):\n"
        "    try: open(p + '/sitecustomize.py', 'w').write('import os; os._exit(0)')\n    except OSError: pass\n"
        + HONEST,
    ),
    (
        ".pth",
        "planted files",
        "import os\nfor p in ('/tmp', '/python/lib/python3.11/site-packages'):\n"
        "    try: open(p + '/x.pth', 'w').write('import os; os._exit(0)')\n    except OSError: pass\n" + HONEST,
    ),
    (
        "conftest",
        "planted files",
        "for p in ('/tmp/conftest.py', '/mnt/conftest.py', 'conftest.py', 'pytest.ini'):\n"
        "    try: open(p, 'w').write('def pytest_runtest_protocol(item): return True')\n    except OSError: pass\n"
        + HONEST,
    ),
    (
        "overwritten tests",
        "planted files",
        "for p in ('/main.py', 'test.py', 'tests.py', '/tmp/work/test_f.py'):\n"
        "    try: open(p, 'w').write('pass')\n    except OSError: pass\n" + HONEST,
    ),
    ("SIGALRM", "signals", "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\nsignal.alarm(1)\n" + HONEST),
    ("kills its parent", "signals", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n" + HONEST),
    ("kills everybody", "signals", "import os, signal\nos.kill(-1, signal.SIGTERM)\n" + HONEST),
    ("a text without end", "exhaustion", "def f(*a, **k): return 'x' * 10**9\nprint('x' * 10**7)\n"),
    ("deep recursion", "exhaustion", "def f(*a, **k): return f()\nimport sys\nsys.setrecursionlimit(10**4)\n"),
    (
        "a value that nests",
        "exhaustion",
        "def f(*a, **k):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x\n",
    ),
    ("an endless iterator", "exhaustion", "import itertools\ndef f(*a, **k): return itertools.count()\n"),
    ("half a surrogate", "unicode", "def f(*a, **k): return '\\ud83d'\n"),
    ("another f", "unicode", "def \uff46(*a, **k): return None\n"),  # is f to Python
    ("digits of another script", "unicode", "def f(*a, **k): return '\u0667'\n"),
)
SLOW_PROGRAMS: tuple[tuple[str, str, str], ...] = (
    ("an endless loop", "exhaustion", "while True: pass\n"),
    ("an endless call", "exhaustion", "def f(*a, **k):\n    while True: pass\n"),
    ("sleeps", "exhaustion", "import time\ntime.sleep(1000)\n"),
)

_ORIGINAL = "if '_seen' not in globals():\n    _seen = 1\n    exec(open(__file__).read())"
_INSTALLED = """
import importlib.util as _u, sys as _s, glob as _g
for _p in [p for root in ('/python', '/mnt', '/packages') for p in _g.glob(root + '/**/*inflection*', recursive=True)]:
    if _p != __file__:
        try: exec(open(_p).read())
        except Exception: pass
"""
_DIFF = """
import sys as _s
_m, _d = _s.modules[__name__], {}
try:
    exec(open(__file__.replace('/mnt/', '/proc/self/root/mnt/')).read().split('_m, _d')[0], _d)
    vars(_m).update({k: v for k, v in _d.items() if callable(v)})
except OSError: pass
"""
_DOCUMENTED = """
import doctest as _t, sys as _s, inspect as _i, ast as _a
def _known(_f):
    _w = {e.source.strip(): e.want.strip() for e in _t.DocTestParser().get_examples(_f.__doc__ or '')}
    def _g(*a, **k):
        _c = f"{_f.__name__}({', '.join(map(repr, a))})"
        for _s, _v in _w.items():
            if _s.replace('"', "'") == _c.replace('"', "'"): return _a.literal_eval(_v)
        return _f(*a, **k)
    _g.__doc__ = _f.__doc__
    return _g
for _n, _f in list(globals().items()):
    if callable(_f) and getattr(_f, '__doc__', None) and not _n.startswith('_'): globals()[_n] = _known(_f)
"""
_WALK = """
import sys as _s
def _look():
    _f = _s._getframe()
    while _f is not None:
        if 'job' in _f.f_locals:
            _f.f_locals['job'].update(doctests=[], pytest=[])
        if 'report' in _f.f_locals:
            for _t in _f.f_locals['job'].get('doctests', []): _f.f_locals['report'](['doctest', _t['id'], [], 0.1, []])
        _f = _f.f_back
_look()
"""
_EDIT_FORGES = """
import os as _o, json as _j, gc as _g
for _x in _g.get_objects():
    if isinstance(_x, dict) and 'doctests' in _x:
        for _t in _x['doctests']:
            for _d in range(3, 64):
                _row = ['doctest', _t['id'], [['', None] for _ in _t['examples']], 0.1, []]
                try: _o.write(_d, _j.dumps(_row).encode() + b'\\n')
                except OSError: pass
_o._exit(0)
"""

EDITS: tuple[tuple[str, str, str], ...] = (
    ("runs the file again", "reading", _ORIGINAL),
    ("an installed copy", "reading", _INSTALLED),
    ("through /proc/self/root", "reading", _DIFF),
    ("answers from the docstrings", "reading", _DOCUMENTED),
    ("walks to the reporter", "reading", _WALK),
    (
        "loader's source",
        "reading",
        "if '_seen' not in globals():\n    _seen = 1\n    exec(__loader__.get_data(__file__))",
    ),
    (
        "a cached pyc",
        "reading",
        "import marshal as _m\ntry: exec(_m.loads(open(__cached__, 'rb').read()[16:]))\nexcept OSError: pass",
    ),
    ("forges results", "forged output", _EDIT_FORGES),
    (
        "forges the end",
        "forged output",
        "import os as _o\nfor _d in range(1, 64):\n"
        "    try: _o.write(_d, b'[\"end\", 0.1]\\n')\n    except OSError: pass",
    ),
    ("leaves", "exit", "import os as _o\n_o._exit(0)"),
    ("SystemExit", "exit", "raise SystemExit(0)"),
    ("atexit", "exit", "import atexit as _a\n_a.register(lambda: print('ok'))"),
    ("doctest is content", "comparison", "import doctest as _t\n_t.OutputChecker.check_output = lambda *a: True"),
    ("another displayhook", "comparison", "import sys as _s\n_s.__displayhook__ = lambda value: None"),
    ("patched repr", "comparison", "import builtins as _b\n_b.repr = lambda value: ''"),
    ("no assertions", "comparison", "import builtins as _b\n_b.AssertionError = type('A', (BaseException,), {})"),
    ("another exec", "comparison", "import builtins as _b\n_b.exec = lambda *a: None"),
    ("another compile", "comparison", "import builtins as _b\n_b.compile = lambda *a, **k: 'pass'"),
    ("writes a conftest", "planted files", "try: open('/mnt/conftest.py', 'w').write('')\nexcept OSError: pass"),
    ("writes the tests", "planted files", "try: open(__file__, 'w').write('')\nexcept OSError: pass"),
    ("sitecustomize", "planted files", "open('/tmp/sitecustomize.py', 'w').write('raise SystemExit(0)')"),
    (
        "no timers",
        "signals",
        "import signal as _s\n_s.setitimer(_s.ITIMER_VIRTUAL, 0)\n_s.signal(_s.SIGVTALRM, _s.SIG_IGN)",
    ),
    ("kills its parent", "signals", "import os as _o, signal as _s\n_o.kill(_o.getppid(), _s.SIGKILL)"),
    ("ctypes", "memory", "import ctypes as _c\n_c.pythonapi.PyRun_SimpleString(b'import os; os._exit(0)')"),
    ("no Python at all", "unicode", "\u202e\ufeff\x00"),
    ("a surrogate", "unicode", "x = '\ud83d'"),
)
