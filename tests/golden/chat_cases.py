"""Small templates, written for these tests, one feature each: (name, template, changes to TALK). A name that begins with
"error" must fail to render."""

TALK = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 안녕 World "},
                 {"role": "assistant", "content": "<think>x\ny</think>\nHello, 'friend' \"q\"\n"}],
    "extra": {"n": 3, "f": 2.5, "word": "Hello wORLD", "han": "한국어 모델", "names": ["b", "a", "C", "a"], "empty": [], "nothing": None, "yes": True,
              "d": {"one": 1, "two": [1, 2.0, None, True, {"k": "v'\"\n"}], "b": "x", "A": 0.1},
              "people": [{"name": "kim", "age": 31, "home": {"city": "서울"}}, {"name": "Lee", "age": 25, "home": {"city": "부산"}},
                         {"name": "ana", "age": 31, "tags": ["x"]}]},
    "prompt": True, "bos": "<s>", "eos": "</s>",
}


def e(name, *expressions, **changes):
    """several expressions in one case, a line for each"""
    return (name, "\n".join("{{ %s }}" % x for x in expressions), changes)


CASES = [
    # ---- white space
    ("text alone", "no tags at all\n\n", {}),
    ("one final newline goes", "a\n\n\n", {}),
    ("crlf", "a\r\n{% if 1 %}\r\nb\rc\r\n{% endif %}\r\nd\r\n", {}),
    ("trim and lstrip", "  {% if yes %}\n  in\n  {% endif %}\n  out {% if yes %} x {% endif %}\ny", {}),
    ("lstrip not for variables", "   {{ n }}\n   {{- n }}\n   {{ n -}}\n   z", {}),
    ("plus keeps", "  {%+ if yes %}\na{% endif +%}\nb\n", {}),
    ("minus", "a \n\t {%- if yes -%} \n b \n {%- endif -%} \n c", {}),
    ("comments", "a {# x #}\nb  {#- y -#}  c\n   {# lone #}\nd {#+ k +#}\ne{#-#}f", {}),
    ("comment with tags in it", "{# {{ x }} {% if %} #}z", {}),
    ("raw", "{% raw %}{{ x }}{% if %}\n{% endraw %}\ny {%- raw -%}  {{ a }}  {%- endraw -%}  z", {}),
    ("minus strips all unicode space", "a\u3000\u00a0{{- n -}}\u2003\nb", {}),
    ("lstrip after a newline-eating tag", "{% set x = 1 %}\n   {% set y = 2 %}\n   {{ x }}{{ y }}", {}),
    ("tag in the middle of a line", "x   {% set x = 1 %}\ny", {}),
    ("nested braces", "{{ {'a': {'b': 1}}['a']['b'] }}{{ {} }}{{ {'x': {}} }}", {}),
    ("percent brace in text", "100% } { } %} }} {", {}),
    # ---- literals
    e("numbers", "1", "-2", "1_000", "0x1F", "0b101", "0o17", "1.5", "1e3", "1.5e-7", "1e16", "123456789012345678", "1e22", "0.1", "100.0", "1e-5", "-0.0", "2.5E+3"),
    e("strings", "'a' 'b' \"c\"", "'it\\'s'", "'\\n|\\t|\\\\|\\x41|\\u00e9|\\101|\\q|\\r'", "\"한\\n\"", "'line\nbreak'", "''"),
    e("constants", "true", "True", "false", "none", "None", "nothing", "yes"),
    e("lists", "[1, 'a', [2, none], (1,), (), (1, 2), {'a': 1}]", "[]", "[1,]", "{}", "{'a': 1, 2: 'b', true: none, (1, 2): 3}", "(1)", "1, 2"),
    e("repr of strings", "[word, han, 'it\\'s', 'a\"b', 'both \\' \"', '\\n\\t\\\\', '\\x00\\x7f\\u200b\\u3000é🙂']"),
    e("repr of numbers", "[1, 1.0, 0.1, 1e100, -3, true, 1e15, 12345678.9, 5e-324, 1.7976931348623157e308]"),
    # ---- operators
    e("arithmetic", "1 + 2 * 3", "7 / 2", "7 // 2", "-7 // 2", "-7 % 3", "7 % -3", "2 ** 10", "2 ** -1", "2 ** 3 ** 2", "-2 ** 2", "1.5 + 1", "7.5 // 2", "-7.5 % 2",
      "true + 1", "10 - 2 - 3", "(1 + 2) * 3", "4 / 2", "+5", "1 - -1", "n * f", "0.1 + 0.2", "1e308 * 10", "7 // 2.0"),
    e("text operators", "'a' + 'b'", "'ab' * 3", "3 * 'x'", "'a' ~ 1 ~ none ~ 2.0 ~ missing ~ [1]", "[1] + [2]", "[0] * 3", "(1,) + (2,)", "'x' * 0", "1 ~ 2 + '3'"),
    e("percent", "'%s and %s' % ('a', 1)", "'%d|%5d|%-5d|%05d' % (1, 2, 3, 4)", "'%.2f|%e|%g' % (1.239, 12.5, 0.1)", "'%x %X %o' % (255, 255, 8)", "'100%%' % ()",
      "'%(a)s' % {'a': 'b'}", "'%s' % none", "'%5s|%-5s|%.2s' % ('a', 'b', 'cde')", "'%r' % 'q'", "'%s' % [1]", "'a' % [1, 2]", "'%s' % missing", "'ab' % missing"),
    e("comparing", "1 == 1.0", "1 != 2", "1 < 2 < 3", "1 < 3 < 2", "'a' < 'b'", "[1, 2] < [1, 3]", "[1] == [1]", "(1,) == [1]", "'a' == 1", "none == none", "missing == missing", "true == 1",
      "{'a': 1} == {'a': 1.0}", "3 >= 3", "1 < 2 == true", "'한' > 'z'"),
    e("in", "1 in [1, 2]", "3 not in [1]", "'ell' in word", "'one' in d", "'x' in missing", "1 in (1, 2)", "'' in ''", "not 1 in [2]", "2 in range(3)", "'a' in names | list"),
    e("logic", "1 and 2", "0 and 2", "0 or 'x'", "'' or none", "not 0", "not 1 == 2", "1 and 0 or 3", "missing or 'd'", "not missing", "[] or {} or 0.0"),
    e("inline if", "'a' if yes else 'b'", "'a' if not yes else 'b'", "'a' if false", "1 if 0 else 2 if 0 else 3", "('x' if n > 2 else 'y') ~ 'z'"),
    e("precedence", "'1' + 2 ~ 3", "not n in [3]", "-n | abs", "'a' ~ 'b' | upper", "n is defined and n > 2", "1 + 1 is odd", "n | string + 'x'", "'%s' % n | string", "-n ** 2"),
    # ---- members, items, slices
    e("members", "d.one", "d['one']", "d.two[4].k", "people[0].home.city", "people[0]['home']['city']", "d.missing", "d.missing is defined", "people.0.name", "names[-1]", "names[9] is defined",
      "d['items'] is callable", "(1, 2)[1]", "word[0]", "han[1]", "han[-1]", "word[99] is defined", "d[1] is defined", "nothing.x is defined", "n.x is defined", "names['x'] is defined"),
    e("slices", "names[1:]", "names[:-1]", "names[::2]", "names[::-1]", "names[1:3]", "names[-2:]", "names[5:]", "names[:0]", "names[::-2]", "names[3:0:-1]", "word[1:4]", "word[:-3]",
      "word[::-1]", "han[1:]", "han[::2]", "han[-2:]", "han[:2] ~ '|'", "''[1:]", "(1, 2, 3)[1:]", "range(5)[1:3] | list", "names[true:]", "names[-99:99]", "names[none:none]"),
    e("methods hide keys", "{'items': 1}.items is callable", "{'items': 1}['items']", "{'get': 2}.get('get')", "{'keys': 5}.keys() | list"),
    # ---- output of values
    e("printing", "missing", "nothing", "yes", "f", "d", "names", "people[0].keys()", "d.items()", "people[1].values()", "range(3)", "range(2, 8, 2)", "namespace(a=1)", "[missing]"),
    # ---- statements
    ("if", "{% if n > 5 %}a{% elif n == 3 %}b{% else %}c{% endif %}{% if missing %}x{% elif nothing %}y{% else %}z{% endif %}{% if yes %}1{% endif %}{% if not yes %}2{% endif %}", {}),
    ("for", "{% for x in names %}{{ loop.index }}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}", {}),
    ("for else", "{% for x in empty %}x{% else %}none{% endfor %}{% for x in [1] %}y{% else %}z{% endfor %}{% for x in missing %}x{% else %}undefined{% endfor %}", {}),
    ("for unpacking", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for (a, b) in ['xy'] %}{{ b }}{{ a }}{% endfor %}", {}),
    ("for over a mapping and a string", "{% for k in d %}{{ k }} {% endfor %}{% for c in han %}[{{ c }}]{% endfor %}", {}),
    ("for with if", "{% for p in people if p.age > 30 %}{{ loop.index }}/{{ loop.length }}{{ p.name }}{{ loop.last }}{{ loop.revindex }} {% else %}none{% endfor %}", {}),
    ("for with if, none left", "{% for p in people if p.age > 90 %}x{% else %}none{% endfor %}", {}),
    ("for with if, lazily", "{% set ns = namespace(stop=false) %}{% for x in range(9) if not ns.stop %}{{ x }}{% if x == 3 %}{% set ns.stop = true %}{% endif %}{% endfor %}", {}),
    ("loop variables", "{% for x in 'abc' %}{{ [loop.index, loop.index0, loop.revindex, loop.revindex0, loop.first, loop.last, loop.length, loop.depth, loop.depth0] }}"
                       "{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('o', 'e') }}{{ loop.changed(x == 'a') }}{% endfor %}", {}),
    ("loop in loop", "{% for a in [1, 2] %}{% set outer = loop %}{% for b in [3, 4] %}{{ outer.index }}{{ loop.index }}{{ a * b }} {% endfor %}{{ loop.index }};{% endfor %}", {}),
    ("break and continue", "{% for x in range(9) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}!", {}),
    ("break inside a block set", "{% for x in range(3) %}a{% set y %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endset %}{{ y }}{% endfor %}", {}),
    ("else of a loop left in every round", "{% for x in [1, 2] %}a{% continue %}{% else %}E{% endfor %}{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}{% for x in [1] %}{% break %}{% else %}F{% endfor %}", {}),
    ("break inside a filter block", "{% for x in [1, 2] %}{% filter upper %}a{% if x == 2 %}{% break %}{% endif %}{% endfilter %}{% endfor %}", {}),
    ("scope of loops", "{% set x = 'out' %}{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}{% for i in [1] %}{% set fresh = 1 %}{% endfor %}{{ fresh is defined }}{{ i is defined }}", {}),
    ("scope of if", "{% if yes %}{% set x = 1 %}{% endif %}{{ x }}", {}),
    ("namespace", "{% set ns = namespace(a=1, b=[]) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{% set ns.c = 5 %}{{ ns.c }}{{ ns['a'] }}", {}),
    ("namespace of a mapping", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}", {}),
    ("set", "{% set x = 1 %}{% set a, b = 1, 2 %}{% set c = 1, 2 %}{{ x }}{{ a }}{{ b }}{{ c }}{% set y = 'a' if yes else 'b' %}{{ y }}", {}),
    ("set block", "{% set x %}  <{{ n }}>\n{% endset %}[{{ x }}]{% set y | upper | trim %}  abc {% endset %}[{{ y }}]{{ x is string }}", {}),
    ("filter block", "{% filter upper %}a{{ word }}{% endfilter %}{% filter replace('a', 'b') | indent(2, true) %}a\na{% endfilter %}", {}),
    ("with", "{% set a = 9 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% set a = 5 %}{% endwith %}{{ a }}", {}),
    ("generation", "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}", {}),
    ("print", "{% print 1 + 1 %}", {}),
    ("recursive loop", "{% for n in people recursive %}{{ n.name }}({{ loop.depth0 }}{{ loop.index }}{{ loop.last }}){% if n.tags %}[{{ loop([{'name': n.tags[0]}, {'name': 'y'}]) | upper }}]{% endif %}{% else %}none{% endfor %}", {}),
    ("recursive loop: scopes", "{% set x = 'out' %}{% for n in [[[]], []] recursive %}{{ x }}{% set x = 'in' %}{% set o = loop %}{% for i in [1] %}{{ o(n) }}{% endfor %}{{ loop.depth }}{% else %}E{% endfor %}", {}),
    ("recursive loop with a test and break", "{% for n in [3, -1, 9] if n >= 0 recursive %}{{ n }}{% if n > 5 %}{% break %}{% endif %}{{ loop([n - 1]) }};{% endfor %}", {}),
    ("block", "{% for i in [1] %}{% block a %}{{ i is defined }}{{ n }}{% set q = 1 %}{% endblock a %}{% endfor %}{{ q is defined }}{% for i in [1] %}{% block b scoped %}{{ i }}{% endblock %}{% endfor %}", {}),
    ("include in a branch not taken", "{% if false %}{% include 'x' %}{% import 'y' as z %}{% endif %}ok", {}),
    ("autoescape off", "{% autoescape false %}{{ '<' }}{% set q = 1 %}{% endautoescape %}{{ q is defined }}", {}),
    ("odd but allowed", "{{ names[] is defined }}{{ in is defined }}{% print 1, 'a' %}", {}),
    # ---- macros
    ("macro", "{% macro f(a, b=2, c='x' ~ b) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(1, c=4) }}{{ f(b=1, a=0) }}{{ f() }}{{ f.name }}", {}),
    ("macro sees later globals", "{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% set x = 1 %}{{ f() }}", {}),
    ("macro does not see the caller", "{% macro f() %}{{ i is defined }}{{ loop is defined }}{% endmacro %}{% for i in [1] %}{{ f() }}{% endfor %}", {}),
    ("macro is a string", "{% macro f() %} a {% endmacro %}{{ f() | trim ~ '|' }}{{ f() is string }}{{ (f() + 'b') | length }}", {}),
    ("macro recursion", "{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * fact(n - 1) | int }}{% endif %}{% endmacro %}{{ fact(10) }}", {}),
    ("macro in a loop", "{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}", {}),
    ("macro varargs", "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, x=4) }}", {}),
    ("call block", "{% macro box(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call box('b') %}in{{ n }}{% endcall %}", {}),
    ("call block with parameters", "{% macro each(l) %}{% for x in l %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(a, b=0) each(names) %}{{ a }}{{ b }} {% endcall %}", {}),
    ("inner macro uses caller", "{% macro m(x) %}{% macro n() %}{{ caller() }}{% endmacro %}[{{ x }}]{% endmacro %}{% call m(1) %}c{% endcall %}", {}),
    ("set inside a macro stays there", "{% set x = 1 %}{% macro f() %}{% set x = 2 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}", {}),
    ("stars in calls", "{% macro f(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2], **{'c': 3}) }}{{ f(*'xyz') }}", {}),
    # ---- filters
    e("text filters", "word | upper", "word | lower", "word | capitalize", "word | title", "han | upper", "'  a ' | trim ~ '|'", "'xxaxx' | trim('x')", "word | length", "han | count", "'straße' | upper",
      "word | replace('l', 'L')", "word | replace('l', 'L', 1)", "'abc' | replace('', '-')", "word | reverse", "han | reverse", "'a-b c(d' | title", "12 | string + '!'", "none | upper", "3 | trim", "'éÀ' | lower"),
    e("default", "missing | default('x')", "'' | default('x')", "'' | default('x', true)", "none | default('x')", "none | d('x', boolean=true)", "missing | default", "d.zzz | default([]) | length", "0 | default(5, true)"),
    e("list filters", "names | join(', ')", "[1, none, 2.5] | join", "people | join('/', attribute='name')", "names | first", "names | last", "empty | first", "han | first", "han | last", "d | first", "names | sort",
      "names | sort(reverse=true)", "names | sort(case_sensitive=true)", "people | sort(attribute='age') | map(attribute='name') | join", "people | sort(attribute='age,name') | map(attribute='name') | join", "names | unique | list", "names | unique(case_sensitive=true) | list",
      "names | reverse | list", "[3, 1, 2] | sort", "[1, 2, 3] | sum", "people | sum(attribute='age')", "[1, 2] | sum(start=10)", "[3, 1] | min", "'ab' | sort(attribute='name')", "('<b' | safe) | list", "names | max", "people | max(attribute='age')", "empty | max", "range(7) | batch(3) | list", "range(7) | batch(3, 'x') | list",
      "range(7) | slice(3) | list", "range(7) | slice(3, 'x') | list", "'abc' | list", "d | list", "(1, 2) | list"),
    e("mapping filters", "d | items | list", "d | dictsort", "d | dictsort(case_sensitive=true)", "{'a': 2, 'b': 1} | dictsort(by='value')", "d | dictsort(reverse=true) | first", "missing | items | list", "d | length"),
    e("map and select", "people | map(attribute='name') | list", "people | map(attribute='home.city', default='?') | list", "names | map('upper') | list", "names | map('replace', 'a', 'b') | join", "range(6) | select('odd') | list", "range(6) | reject('odd') | list",
      "[0, 1, '', 'a'] | select | list", "[0, 1, none] | reject | list", "people | selectattr('tags') | map(attribute='name') | list", "people | selectattr('age', 'equalto', 31) | map(attribute='name') | join(',')", "people | rejectattr('age', '>', 30) | map(attribute='name') | list",
      "people | selectattr('tags', 'defined') | list | length", "people[:2] | selectattr('home.city', 'equalto', '서울') | list | length", "people | selectattr('name', 'in', ['kim', 'ana']) | list | length", "range(5) | select('divisibleby', 2) | list", "[[1, 2], [3]] | map('first') | list", "nothing | selectattr('a') | list", "none | map('upper') | list", "0 | select | list",
      "people | map(attribute='tags') | select('defined') | list", "names | map('length') | sum", "[(1, 'a')] | map(attribute=1) | list", "[(1, 'a')] | map(attribute='1') | list"),
    e("number filters", "'42' | int", "'4.7' | int", "'x' | int", "'x' | int(7)", "'ff' | int(base=16)", "'0x1f' | int(base=16)", "3.9 | int", "none | int", "true | int", "' 12 ' | int", "'-5' | int", "'1.5' | float", "'x' | float", "3 | float", "-3 | abs", "-2.5 | abs", "2.5 | round", "3.5 | round", "2.567 | round(2)", "2.1 | round(method='ceil')",
      "2.9 | round(0, 'floor')", "42 | round", "2.675 | round(2)", "1234.5 | round(-2)", "'1_000' | int", "'1e3' | float", "'1e3' | int"),
    e("tojson", "d | tojson", "people | tojson", "word | tojson", "han | tojson", "han | tojson(ensure_ascii=true)", "'🙂\\x7f\\x01/<>&' | tojson", "'🙂\\x7f' | tojson(ensure_ascii=True)", "[1, 1.0, true, none, 'a', (1, 2)] | tojson", "{} | tojson", "[] | tojson(indent=2)", "d | tojson(indent=2)", "people | tojson(indent=4)",
      "d | tojson(separators=(',', ':'))", "d | tojson(sort_keys=true)", "{1: 2, true: 3, none: 4, 1.5: 5} | tojson", "[[]] | tojson(indent=1)", "{'a': {}} | tojson(indent='--')", "[1] | tojson(indent=0)", "1e22 | tojson", "'\\b\\f\\n\\r\\t\\\\\"' | tojson", "nothing | tojson"),
    e("from_json", "'{\"a\": [1, 2.5, null, true, \"한\"]}' | from_json", "('[1]' | from_json)[0] + 1", needs="from_json"),
    e("indent", "'a\\nb\\n\\nc' | indent", "'a\\nb' | indent(2)", "'a\\nb' | indent(2, true)", "'a\\n\\nb\\n' | indent(2, blank=true)", "'a\\nb' | indent('> ', first=True)", "'' | indent(2, true) ~ '|'", "'a\\r\\nb\\n' | indent(1) ~ '|'", "'a' | indent(width=3)"),
    e("markup", "'<a>' | e", "'<a>' | escape + '<b>'", "'<a>' | safe", "('<a>' | safe) + '<b>'", "'<b>' + ('<a>' | safe)", "('<a>' | safe) ~ '<b>'", "('<a>' | safe | upper) + '&'", "'\"\\'&' | e", "('<' | safe) * 2", "['<a>' | safe, '<b>'] | join('<')", "'x' | e | e", "('a<b' | e).split('&') | list"),
    e("other filters", "'%s-%s' | format(1, 'x')", "'%(a)s' | format(a=5)", "word | string | length", "names | attr('x') is defined", "'abc' | attr('upper') is callable"),
    e("seldom used filters", "people | groupby('age') | list", "people | groupby('home.city', default='?') | map(attribute='grouper') | list", "names | groupby(0) | map(attribute='list') | list", "'a' | center(5) ~ '|'", "word | wordcount", "'a-b c_d 한국' | wordcount",
      "'the quick brown fox' | truncate(9)", "'the quick brown fox' | truncate(9, true, '..')", "'the quick brown fox' | truncate(9, leeway=0)", "'foo bar baz qux' | truncate(11)", "'a b&c/d?한' | urlencode", "{'a': 1, 'b': 'x y'} | urlencode", "1234567 | filesizeformat",
      "1 | filesizeformat", "2048 | filesizeformat(true)", "'<' | e | forceescape", "'inf' | float", "'-Infinity' | float | tojson"),
    e("format specifications", "'{:,}|{:>6}|{:^7}|{:*<5}|{:.2f}'.format(1234567, 'ab', '한', 1, 3.14159)", "'{:08.3f}|{:+d}|{:#x}|{:b}|{:c}|{:e}|{:g}|{:.1%}'.format(-3.14, 4, 255, 5, 65, 1e9, 0.1, 0.256)", "'{:>{}}|{!r:>8}|{a[b][0]:5}|'.format('a', 5, 'q', a={'b': [1]})",
      "'{:010,}|{:_}|{:,.2f}|{:=+6d}|{: d}'.format(1234, 1234567, 1234567.891, 5, 5)", "'{:.3}|{:.1}|{:.3}|{:10}|{:<10}|{:G}'.format(3.0, 12.0, 123.0, 2.5, 2.5, 1e-10)", "'{:5}|{:}|{!a}'.format(true, none, '한')", "'{x}'.format_map({'x': 1})", "('<{}>' | safe).format('<')",
      "'%c%c|%a|%5s|%-5.2f|%*d|%%|%ld' % (65, 'b', '한', 'x', 2.5, 4, 7, 3)", "'%5.1f|%05d|%+d|%x|%e' % (2.25, 42, 3, 255, 1234.5)"),
    e("cases longer than one character", "'ŉﬁßǰΐ' | upper", "'ŉﬁß' | title", "'ﬁx'.capitalize()", "'İΑΣ ΣΑΣ.'.lower()", "'ßﬀΣς'.casefold()", "'ß'.swapcase()"),
    # ---- tests
    e("tests", "missing is undefined", "n is defined", "nothing is none", "word is string", "n is string", "d is mapping", "names is mapping", "names is sequence", "word is sequence", "d is sequence", "n is sequence", "names is iterable", "n is iterable", "missing is iterable", "d.items() is sequence", "d.items() is iterable",
      "n is number", "f is number", "yes is number", "word is number", "n is integer", "yes is integer", "f is float", "n is float", "yes is boolean", "n is boolean", "yes is true", "1 is true", "false is false", "0 is false", "range is callable", "n is callable", "3 is odd", "4 is even", "9 is divisibleby 3", "9 is divisibleby(2)", "2.5 is even", "-3 is odd", "4.0 is even", "missing is callable",
      "n is eq 3", "n is equalto(3)", "n is ne 4", "n is gt 2", "n is ge(3)", "n is lt 4", "n is le 3", "n is greaterthan 2", "n is lessthan 2", "'a' is lower", "'A' is upper", "'1' is upper", "n is in [3]", "n is not in [3]", "none is sameas none", "n is not none", "missing is not defined", "('<' | safe) is escaped", "'upper' is filter", "'zzz' is filter", "'odd' is test",
      "names | select('string') | list | length", "(names | map('upper')) is sequence"),
    # ---- methods
    e("strip", "'  a '.strip() ~ '|'", "'  a '.lstrip() ~ '|'", "'  a '.rstrip() ~ '|'", "'xyaxy'.strip('yx')", "'한a한'.strip('한')", "'\\n\\na\\n'.lstrip('\\n') ~ '|'", "'\\u3000a\\u00a0'.strip()", "'abc'.strip('')"),
    e("split", "'a,b,c'.split(',')", "'a,b,c'.split(',', 1)", "'a,b,c'.rsplit(',', 1)", "' a  b\\nc '.split()", "' a  b  c '.split(none, 1)", "' a  b  c '.rsplit(none, 1)", "''.split()", "''.split(',')", "'a</think>b</think>c'.split('</think>')[-1]", "'abc'.split('x')", "'한,글'.split(',')", "'a\\nb\\r\\nc\\n'.splitlines()", "'a\\nb\\n'.splitlines(true)", "'a-b-c'.partition('-')",
      "'a-b-c'.rpartition('-')", "'abc'.partition('x')", "'abc'.rpartition('x')", "'a,b'.split(sep=',')", "'aXbXc'.rsplit('X')", "'a,b'.split(',', maxsplit=0)"),
    e("asking strings", "word.startswith('He')", "word.endswith('x')", "word.startswith(('x', 'He'))", "word.find('o')", "han.find('모')", "han.rfind('zz')", "word.rfind('o')", "word.count('l')", "word.index('w')", "'123'.isdigit()", "'12a'.isdigit()", "'abc'.isalpha()", "'한글'.isalpha()", "'a1'.isalnum()", "' '.isspace()", "'ABC'.isupper()", "'abc'.islower()", "''.isdigit()", "'abc'.count('')", "'٣'.isdecimal()"),
    e("changing strings", "word.upper()", "word.lower()", "word.title()", "word.capitalize()", "word.swapcase()", "\"it's a dog\".title()", "'a.b.c'.replace('.', '/')", "'aaa'.replace('a', 'b', 2)", "', '.join(names)", "''.join(['한', '글'])", "'abc'.ljust(5) ~ '|'", "'abc'.rjust(5, '*')", "'abc'.center(6) ~ '|'", "'abc'.center(7, '-')", "'-5'.zfill(4)", "'abc'.removeprefix('a')", "'abc'.removesuffix('bc')", "'Straße'.casefold() | length > 5",
      "'{} {}'.format('a', 1)", "'{1}{0}{x}'.format('a', 'b', x=none)", "'{{}} {!r}'.format('q')", "'{0.name}{0[age]}'.format(people[0])"),
    e("methods with a place", "'abcabc'.find('c', 3)", "'abcabc'.rfind('a', 0, -1)", "'abcabc'.index('b', 2)", "'한국한'.find('한', 1)", "'abc'.count('', 1)", "'abc'.startswith('b', 1)", "'abc'.endswith('b', 0, 2)", "'abc'.find('', 9)", "names.index('a', 2)", "'a\\tbc\\td'.expandtabs(4)", "'A Bc'.istitle()", "'é'.isascii()", "'²'.isdigit()", "'²'.isdecimal()", "'\\x7f'.isprintable()",
      "dict.fromkeys('ab', 1)", "{}.fromkeys([1])"),
    ("joiner", "{% set j = joiner('; ') %}{% for x in names %}{{ j() }}{{ x }}{% endfor %}", {}),
    ("a macro about itself", "{% macro f(a, b=1) %}{{ caller is defined }}{% endmacro %}{{ f.arguments }}{{ f.caller }}{{ f.catch_kwargs }}{{ f.catch_varargs }}", {}),
    e("mapping methods", "d.get('one')", "d.get('zzz')", "d.get('zzz', 5)", "d.keys() | list", "d.values() | list | length", "d.items() | list | first", "d.items() | length", "people[0].copy() == people[0]", "names.index('C')", "names.count('a')", "d.get('b') ~ d.get(key) if false else 'k'"),
    e("functions", "range(5) | list", "range(2, 5) | list", "range(5, 0, -2) | list", "range(0) | list", "dict(a=1, b=2)", "dict([('x', 1)], y=2)", "dict({'a': 1})", "range(3) | last", "3 in range(3)", "range(4).count(1)", "range(1, 10)[2]"),
    e("clock", "strftime_now('%Y-%m-%d')", "strftime_now('%d %b %Y %H:%M:%S')", "strftime_now('%A %B %-d')", "strftime_now('')"),
    e("variables", "bos_token", "eos_token", "add_generation_prompt", "tools is none", "documents", "messages | length"),
    # ---- generators
    e("generators", "(names | select('string')) is defined", "1 if names | select('integer') else 2", "names | map('upper') | join", "(names | map('upper')) | first"),
    ("a generator is used up", "{% set g = names | map('upper') %}{{ g | list }}{{ g | list }}", {}),
    # ---- templates as they are
    ("chatml", "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}", {}),
    ("thinking removed", "{%- for m in messages %}\n  {%- if m.role == 'assistant' and '</think>' in m.content %}\n    {%- set text = m.content.split('</think>')[-1].lstrip('\\n') %}\n  {%- else %}\n    {%- set text = m.content %}\n  {%- endif %}\n[{{ text }}]\n{%- endfor %}", {}),
    ("last user turn", "{% set ns = namespace(i=-1) %}{% for m in messages[::-1] %}{% set j = messages | length - 1 - loop.index0 %}{% if ns.i < 0 and m.role == 'user' %}{% set ns.i = j %}{% endif %}{% endfor %}{{ ns.i }}", {}),
    ("parts", "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<{{ p.type }}>{% endif %}{% endfor %}{% endif %}|{% endfor %}",
     {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]}, {"role": "user", "content": "s"}]}),
    ("tool calls", "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}{% endfor %}{% endfor %}",
     {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, "한"], "y": {"z": None}}}}]}]}),
    ("no messages", "{{ messages }}{% for m in messages %}x{% endfor %}", {"messages": []}),
    ("unknown filter in a branch not taken", "{% if false %}{{ x | nosuchfilter }}{% endif %}{{ 1 if true else (2 | nosuchfilter) }}ok", {}),
    # ---- errors
] + [("error: " + t, t, {}) for t in [
    "{{ missing.x }}", "{{ missing['x'] }}", "{{ missing() }}", "{{ missing + 1 }}", "{{ d.a.b.c }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ 'a' + none }}", "{{ 1 < 'a' }}", "{{ [1] < 2 }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}",
    "{{ n | nosuchfilter }}", "{{ n is nosuchtest }}", "{% if n %}{{ n | nosuchfilter }}{% endif %}", "{% nosuchtag %}", "{% if %}{% endif %}", "{% if n %}", "{% for x in names %}", "{% endfor %}", "{% else %}", "{{ n", "{% if n", "{# n", "{{ n) }}", "{{ (n }}",
    "{{ 'abc }}", "{{ }}", "{{ n n }}", "{{ 1 + }}", "{% raw %}x", "{% set x %}", "{% set %}", "{% set n.x = 1 %}", "{% set d.x = 1 %}", "{{ names.append(1) }}", "{{ d.update({}) }}", "{{ d.pop('one') }}", "{{ raise_exception('stop ' ~ n) }}", "{% for x in n %}{% endfor %}", "{% for x in none %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{{ n | length }}", "{{ none | length }}", "{{ n[1:] }}", "{{ names[::0] }}", "{{ word('x') }}", "{{ n() }}", "{{ range(10 ** 6) }}", "{{ range() }}", "{{ range(1, 2, 0) }}", "{{ missing | tojson }}", "{{ (names | map('upper')) | tojson }}",
    "{{ range | tojson }}", "{{ {(1, 2): 3} | tojson }}", "{{ {[]: 1} }}", "{{ '%d' % 'a' }}", "{{ '%s %s' % 'a' }}", "{{ '%s' % (1, 2) }}", "{{ 'a'.split('') }}", "{{ names | join(1, 2, 3) }}", "{{ names | join(zzz=1) }}", "{{ word | replace('a') }}", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(b=1) }}",
    "{% macro f(a) %}{{ a.b }}{% endmacro %}{{ f() }}", "{{ names | map('nosuchfilter') | list }}", "{{ names | select('nosuchtest') | list }}", "{{ names | sort(attribute='x.y') }}", "{{ [1, 'a'] | sort }}", "{{ [1, 'a'] | max }}", "{{ 1 in n }}", "{{ 1 in word }}", "{% break %}", "{% include 'x' %}", "{{ 1 is odd is even }}", "{{ (names | map('upper')) | length }}",
    "{{ n | items | list }}", "{{ none | items | list }}", "{{ people | map(attribute='home.city') | list }}", "{{ '{} {}'.format(1) }}", "{{ names.index('zzz') }}", "{{ 'x'.index('y') }}", "{{ word.nosuch() }}", "{{ f(a=1, 2) }}", "{% macro f(a=1, b) %}{% endmacro %}", "{{ none.x.y }}", "{{ -word }}", "{{ ('a' if false).x }}", "{{ d | dictsort(by='zzz') }}", "{{ 'a' | abs }}", "{{ none | indent }}", "{{ 'a' | format(1) }}", "{% for x in [1] %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", "{{ names | sum }}",
    "{% for x in [1] %}{{ loop([1]) }}{% endfor %}", "{% for x in [1] recursive %}{{ loop(1) }}{% endfor %}", "{% for x in [1] recursive %}{{ loop() }}{% endfor %}", "{% for x in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", "{% include 'x' %}",
    "{{ namespace(_a=1) }}", "{% set ns = namespace() %}{% set ns._a = 1 %}", "{{ '{:d}'.format('a') }}", "{{ '{:s}'.format(1) }}", "{{ '{0}{}'.format(1, 2) }}", "{{ '{:5}'.format(none) }}", "{{ '{:.2d}'.format(3) }}", "{{ names | groupby('age') | list }}", "{{ 0 ** -1 }}", "{{ 0.0 ** -1 }}", "{{ 'abc' % d.keys() }}", "{{ (1, 2).copy() }}",
    "{% macro f(a, a) %}{% endmacro %}", "{% macro f %}{% endmacro %}", "{% macro f(caller) %}{{ caller }}{% endmacro %}", "{% set true = 1 %}", "{{ 01 }}", "{{ dict(a=1, a=2) }}", "{{ dict(**{'a': 1}, b=2) }}", "{{ range(*[1], *[3]) }}", "{{ range(*[1], 3) }}",
    "{{ ''.join([1]) }}", "{{ (names | first).x.y }}", "{{ loop.index }}", "{% for x in names %}{{ loop.zzz.y }}{% endfor %}", "{% set loop = 1 %}{% for x in [1] %}{% set loop = 2 %}{% endfor %}",
]]


# ---- conversations for the templates of others
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather at a place, <now> & \"here\".",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Name of the city"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": "array", "items": {"type": "integer"}, "description": "Days from now"}}}}}
CLOCK = {"type": "function", "function": {
    "name": "clock", "description": "시각을 알려 줍니다.",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string", "description": "시간대"}, "exact": {"type": "boolean", "description": "초까지"}}}}}


def call(i, name, arguments):
    return {"id": f"call{i:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def talk(*turns, **more):
    return {"messages": [t if isinstance(t, dict) else {"role": t[0], "content": t[1]} for t in turns], "prompt": True, "bos": "<s>", "eos": "</s>", **more}


CONVERSATIONS = {
    "turns": talk(("system", "  You answer briefly.\n"), ("user", "What is 2 < 3 & \"why\"?"), ("assistant", "<think>\nA greeting.\n</think>\n\nHello! "), ("user", "Tell me\na joke.\n"),
                  ("assistant", "Why did the chicken?"), ("user", "Again"), ("assistant", "No."), prompt=False),
    "tools": talk(("system", "Use tools."), ("user", "Weather in Oslo?"),
                  {"role": "assistant", "content": "", "tool_calls": [call(1, "get_weather", {"city": "Oslo", "days": [1, 2], "exact": True, "x": 1.5, "y": None})]},
                  {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"temp\": -3}"}, ("assistant", "Cold: -3."), ("user", "Thanks"),
                  tools=[WEATHER, CLOCK], extra={"functions": "[{}]", "datetime": "today"}),
    "korean": talk(("system", "당신은 친절한 도우미입니다."), ("user", "한글의 역사를 알려 줘. 🙂"), ("assistant", "세종대왕이 1443년에 만들었습니다."), ("user", "감사합니다\u3000"),
                   extra={"enable_thinking": False, "date_string": "2025-07-29", "functions": "[]", "datetime": "2025-07-29"}),
    "single": talk(("user", "Hi, who are you?")),
    "two calls": talk(("user", "Oslo and Seoul, now"),
                      {"role": "assistant", "content": None, "reasoning_content": "Two places.\nTwo calls.", "tool_calls": [call(2, "get_weather", {"city": "Oslo"}), call(3, "clock", {"zone": "서울", "exact": False})]},
                      {"role": "tool", "tool_call_id": "call00002", "name": "get_weather", "content": "rain"}, {"role": "tool", "tool_call_id": "call00003", "name": "clock", "content": "12:00"},
                      tools=[WEATHER, CLOCK], extra={"enable_thinking": True, "reasoning_effort": "high"}),
    "text arguments": talk(("user", "서울 날씨"), {"role": "assistant", "content": "Let me look.", "tool_calls": [call(4, "get_weather", "{\"city\": \"서울\", \"days\": [1]}")]},
                           {"role": "tool", "tool_call_id": "call00004", "name": "get_weather", "content": [{"type": "text", "text": "맑음"}]}, tools=[WEATHER]),
    "parts": talk({"role": "system", "content": [{"type": "text", "text": "Look."}]}, {"role": "user", "content": [{"type": "text", "text": "What is\n"}, {"type": "image"}, {"type": "text", "text": "this?"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "A cat."}], "thinking": "whiskers"}, ("user", "Sure?"), extra={"add_vision_id": True}),
    "bare": talk(("user", "a"), ("user", "b"), ("assistant", "c"), ("system", "late"), ("user", "d"), bos=None, eos=None, prompt=False),
}
