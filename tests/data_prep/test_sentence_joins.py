"""Periods that end no sentence in French, German and everywhere: borders that sentencex sets and that must go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.segment import sentences
from data_prep.sentence_joins import joined

# A line of sentences each, " | " where one ends and the next begins.
FRENCH = """
M. Dupont est là. | Mme. Morel aussi.
Hier M. Dupont est allé voir M. Martin. | Il n'y était pas.
On attendait M. le maire et MM. les adjoints. | Ils sont venus.
Mgr. Affre a parlé à Mlle. Durand et au Dr. Lebrun. | Me. Roche plaidait.
Le Lt. Morel a suivi le gén. Roux jusqu'à Ste. Marie.
L'art. 5 du code et l’art. 6 le disent, comme le t. IV.
Il a étudié l'art. | Elle a étudié le droit.
Voyez le n. 12, le no. 13 et la p. 14.
C'était en 52 av. J.-C. | La guerre durait.
En 52 av. J.-C., et encore en 70 apr. J.-C., on y passait.
On lit J.-J. Rousseau, V. Hugo et É. Zola. | On les aime.
C'est la porte A. | L'autre est la porte B.
Le R. P. Martin et S. M. la reine d'Espagne sont là.
C'est le plan B. | Il est mauvais.
On prit la route B. | C'était la plus longue.
La maison Roux et Cie. est vendue. | La maison Durand et Cie. | Elle reste.
Il est né le 3 janv. 1920 et mort en janv. | On l'a pleuré.
Il passa l'année au Cap. | Martin resta.
Il y avait des chats, des chiens, etc.
"""
GERMAN = """
Im 19. Jahrhundert war es so. | Im 20. Jahrhundert war es anders.
Die 2. Auflage ist vergriffen. | Berlin, 3. Auflage.
Der 1. FC Köln gewann. | Der 2. Weltkrieg begann.
1. FC Nürnberg gegen Bayern.
Am 3. Okt. 2020 war es so weit. | Freitag, 13. Mai: Regen.
Das steht im 2. und 3. Band. | Sie feiert ihren 50. Geburtstag.
bis 10. | Anhand der Berichte wird geprüft.
Er kam 2019. | Danach ging er wieder.
Sie war 19. | Er war 20. | Karl war 21.
Heute ist der 13. | Wenn es regnet, bleiben wir.
Wir lasen bis Seite 12. | Karl las weiter.
Das geschah im Jahr 800. | Karl wurde Kaiser.
Joh. Seb. Bach und É. Zola kannten sich nicht. | J. S. Bach war tot.
Die Fa. Müller lud Frl. Schulz und den Frhr. von Stein ein.
Es kamen Hunde, Katzen usw.
"""
OTHERS = [
    ("en", "He read J.-P. Sartre. | Then he left. | J. S. Bach was there."),
    ("en", "The plan B. | It failed. | He took vitamin C. | Then he slept."),
    ("en", "It is rule FIO-C. | Close the file."),
    ("en", "He was an M. D. | The nurse came with -E. | Then they left. | ‘N. B. He is late.’"),
    ("uk", "Тут жив А. С. Пушкін. | Потім він пішов."),
    ("bg", "Тук живя А. С. Пушкин. | После замина."),
    ("es", "Leyó a J.-J. Rousseau. | Después salió."),
]
CASES = [(language, line) for language, text in (("fr", FRENCH), ("de", GERMAN)) for line in text.strip().split("\n")]


@pytest.mark.parametrize(("language", "line"), CASES + OTHERS)
def test_ends_of_sentences(language, line):
    assert sentences(line.replace(" | ", " "), language) == line.split(" | ")


@given(
    st.lists(st.sampled_from(["M. ", "der ", "3. ", "3.", "Okt. ", "A. ", "-C.", "Er ", "Bach ", ". ", ""])),
    st.sampled_from(["de", "fr", "en"]),
)
def test_nothing_is_lost(pieces, language):
    found = joined(pieces, language)
    assert "".join(found) == "".join(pieces) and len(found) <= len(pieces)
    # Every border that is left was one.
    borders = {len("".join(pieces[:i])) for i in range(len(pieces) + 1)}
    assert {len("".join(found[:i])) for i in range(len(found))} <= borders


def test_a_line_of_nothing_but_titles_takes_no_longer_than_its_length():
    assert len(joined(["M. "] * 300_000, "fr")) == 1
