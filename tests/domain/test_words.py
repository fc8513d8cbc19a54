"""Class words in queries: whole words, singular or plural, and the longest first."""

import pytest

from clipsearch.domain import taxonomy
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.words import Vocabulary, singular, tokens

PAIRS = """
cat cats|dog dogs|box boxes|fox foxes|bus buses|glass glasses|dress dresses|church churches
brush brushes|watch watches|house houses|horse horses|rose roses|vase vases|purse purses|axe axes
pony ponies|butterfly butterflies|berry berries|pie pies|tie ties|cookie cookies|movie movies
monkey monkeys|boy boys|tomato tomatoes|potato potatoes|mosquito mosquitoes|shoe shoes|canoe canoes
piano pianos|photo photos|kangaroo kangaroos|wolf wolves|leaf leaves|loaf loaves|knife knives
calf calves|scarf scarves|shelf shelves|hoof hooves|glove gloves|cave caves|wave waves|dove doves
man men|woman women|child children|person people|mouse mice|goose geese|foot feet|tooth teeth
cactus cacti|octopus octopuses|policeman policemen|snowman snowmen|lens lenses|bench benches
peach peaches|moustache moustaches|cheese cheeses|size sizes|key keys|bee bees|toe toes|tv tvs
""".replace("\n", "|").strip("|")


@pytest.mark.parametrize("pair", PAIRS.split("|"))
def test_singular_and_plural_meet(pair: str) -> None:
    one, many = pair.split()
    assert singular(one) == singular(many)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("cat", "cate"),
        ("car", "care"),
        ("rat", "rate"),
        ("star", "stare"),
        ("bus", "bu"),
        ("news", "new"),
        ("grass", "gras"),
        ("pan", "pane"),
        ("lens", "len"),
    ],
)
def test_other_words_do_not(a: str, b: str) -> None:
    assert singular(a) != singular(b)


def test_tokens() -> None:
    assert tokens("The dog's two BALLS, and the girls\u2019 hot-dog!") == (
        *("the", "dog", "two", "ball", "and", "the", "girl", "hot", "dog"),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a cat on a mat", ["cat"]),
        ("CATS!", ["cat"]),
        ("two kittens and an african elephant", ["cat", "African elephant"]),
        ("the kitten's african-elephants", ["cat", "African elephant"]),
        ("hot dogs", ["hot dog"]),
        ("a hot cat", ["cat"]),
        ("cat cat kitten", ["cat"]),
        ("a catalog of concatenated elephants", []),
        ("hot and dog", []),
        ("", []),
    ],
)
def test_classes_named(small: Domain, text: str, named: list[str]) -> None:
    found = Vocabulary(small).classes_named(text)
    assert [small.classes[index].name for index in found] == named


def test_the_longest_name_counts() -> None:
    domain = taxonomy.load(taxonomy.DEFAULT)
    found = Vocabulary(domain).classes_named("a hot dog and a teddy bear")
    assert [domain.classes[index].name for index in found] == ["hot dog", "teddy bear"]


def plural(name: str) -> str:
    last = name.split()[-1]
    for one, many in {"mouse": "mice", "goose": "geese", "ox": "oxen", "child": "children"}.items():
        if last == one:
            return name.removesuffix(one) + many
    if last.endswith("man"):
        return name.removesuffix("man") + "men"
    if last in ("people", "children") or (last.endswith("s") and not last.endswith("ss")):
        return name
    if last.endswith("y") and last[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if last.endswith(("ss", "x", "z", "ch", "sh")) else "s")


def test_every_everyday_class_names_itself_in_the_plural_too() -> None:
    domain = taxonomy.load(taxonomy.DEFAULT)
    vocabulary = Vocabulary(domain)
    for index, cls in enumerate(domain.classes):
        for name in (cls.name, *cls.synonyms):
            for text in (name, f"my {plural(name)}, please", name.upper()):
                assert vocabulary.classes_named(text)[:1] == (index,), text
