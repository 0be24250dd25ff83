"""Borders between sentences that are none: periods of abbreviations, initials and German ordinals.

sentencex knows most abbreviations; here are those that it cuts at. A rule says "no end" only where what stands before
and after the period makes one unlikely. What stays ambiguous stays an end: "Sie war 19. Er war 20."
"""

import functools
import itertools
import re
from dataclasses import dataclass

from data_prep import unicode_14

_QUOTES = "«»„“”‚‘’›‹\"'([–—-"


@dataclass(frozen=True)
class _Language:
    """What a language writes with a period.

    Attributes:
        titles: they stand before a name, and end no sentence.
        abbreviations: words too, or at the end of a sentence too: they end none before a number or a small letter.
        openings: words that a sentence begins with and that no name is.
        ordinals: whether "3." means the third.
    """

    titles: frozenset[str]
    abbreviations: frozenset[str]
    openings: frozenset[str]
    ordinals: bool = False

    @functools.cached_property
    def endings(self) -> frozenset[str]:
        """The last four characters of a text that ends with one of these words."""
        return frozenset((before + word)[-4:] for word in self.titles | self.abbreviations for before in f" {_QUOTES}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LANGUAGES = {
    "fr": _Language(
        titles=_words(
            "M. MM. Mme. Mmes. Mlle. Mlles. Mgr. Mgrs. Me. Mes. Dr. Drs. Pr. Prof. St. Ste. Sts. Stes. "
            "Gal. gén. Gén. Col. Cdt. Cne. Lt. Sgt. c.-à-d."
        ),
        abbreviations=_words(
            "art. n. no. nos. t. p. pp. vol. chap. fig. éd. sect. bd. Bd. dép. coll. trad. op. adj. Cie. cie. Cies. "
            "janv. févr. avr. juil. sept. oct. nov. déc. cm. km. kg. min. max."
        ),
        openings=_words(
            "Il Elle Ils Elles On Je Tu Nous Vous Le La Les Un Une Des Du De Ce Cet Cette Ces Celui Celle Ceux Cela "
            "Ça Ceci Mon Ma Mes Ton Ta Tes Son Sa Ses Notre Nos Votre Vos Leur Leurs Et Mais Ou Où Or Donc Car Ni Si "
            "Que Qui Quand Quoi Quel Quelle Quels Quelles Comme Comment Combien Pourquoi Lorsque Puis Puisque Parce "
            "Alors Ainsi Après Avant Avec Sans Sous Sur Dans Par Pour En À A Au Aux Chez Entre Vers Depuis Pendant "
            "Ici Là Voici Voilà Aussi Tout Tous Toute Toutes Chaque Quelques Plusieurs Certains Non Oui Ne Y Très "
            "Plus Rien Personne Tandis Enfin Ensuite Cependant Pourtant Toutefois Peut Était C'est"
        ),
    ),
    "de": _Language(
        titles=_words(
            "Frl. Frhr. Gf. Hl. hl. Fa. Ew. Exz. Kgl. kgl. Dir. Präs. Dipl.-Ing. Joh. Seb. Friedr. Wilh. Jos. Gg. "
            "österr. dt. engl. frz. lat. griech. geb. inkl."
        ),
        abbreviations=frozenset(),  # sentencex sees to them
        openings=_words(
            "Er Sie Es Ich Wir Ihr Du Man Der Die Das Den Dem Des Ein Eine Einen Einem Einer Eines Dies Dieser Diese "
            "Dieses Diesen Diesem Jener Jene Jenes Kein Keine Keiner Keinen Mein Meine Meinen Dein Deine Sein Seine "
            "Seinen Seinem Seiner Ihre Ihren Ihrem Ihrer Ihm Ihn Ihnen Mir Mich Uns Unser Unsere Euer Eure Und Oder "
            "Aber Denn Doch Sondern Als Wenn Weil Da Daß Dass Ob Obwohl Während Nachdem Bevor Bis Seit Seitdem Sobald "
            "Solange Wie Wo Wer Was Wem Wen Wann Warum Weshalb Wohin Woher Wieso Welcher Welche Welches Dann Danach "
            "Damals Dort Hier Heute Gestern Jetzt Nun Nur Noch Auch Schon So Also Darauf Dabei Dadurch Dafür Dagegen "
            "Daher Dahin Damit Daran Daraufhin Daraus Darin Darum Davon Davor Dazu Dennoch Deshalb Jedoch Trotzdem "
            "Zwar Ja Nein Nicht Nichts Nie Niemals Niemand Jemand Etwas Immer Alle Alles Beide Viele Einige Mehrere "
            "Manche Jeder Jede Jedes Sehr Mehr In Im An Am Auf Aus Außer Bei Beim Mit Nach Von Vom Vor Zu Zum Zur "
            "Zwischen Durch Für Gegen Ohne Um Unter Über Ueber Hinter Neben Wegen Trotz Später Zuerst Zunächst "
            "Zuletzt Endlich Schließlich Vielleicht Plötzlich Bald Wieder Hat Hatte War Waren Ist Sind Wird Wurde"
        ),
        ordinals=True,
    ),
}
# What makes a German number before its period an ordinal, whatever follows: it says which one.
_WHICH = _words(
    "der die das den dem des im am zum zur vom beim ins ans aufs dieser diese dieses diesen diesem jeder jede jedes "
    "jeden jedem ein eine einen einem einer eines"
) | {
    pronoun + ending
    for pronoun in ("mein", "dein", "sein", "ihr", "unser", "unsr", "euer", "eur")
    for ending in ("", "e", "en", "em", "er", "es")
}
# And what does so behind it, whatever comes before.
_COUNTED = _words(
    "Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember Jan Jän Feb Febr Mär "
    "Apr Jun Jul Aug Sep Sept Okt Nov Dez Jahrhundert Jahrhunderts Jahrhunderte Jahrhunderten Jh Jhd Jhdt Jahrtausend "
    "Jahrtausends Auflage Auflagen Aufl"
)
_AND = _words("und oder bis sowie / – -")
_COUNT = re.compile(r"[0-9]{1,3}\.,?")  # no year
_NUMBER_OR_SMALL = re.compile(r"[0-9]|[IVXLC]+\b|[a-zß-öø-ÿœ]")
_ELIDED = re.compile("[A-Z]['’]|Qu['’]")  # "L'homme": a word that a sentence begins with
# What is looked at before a period: characters, pieces, and characters of an abbreviation.
_TAIL, _PIECES, _LONGEST_WORD = 64, 8, 16


def joined(pieces: list[str], language: str) -> list[str]:
    """The pieces of a line that sentencex has found, those put together between which no sentence ends.

    Together they are the line as before.
    """
    rules = _LANGUAGES.get(language)
    endings = rules.endings if rules else ()
    goes_on = [
        i
        for i, piece in enumerate(pieces[:-1], 1)
        # Most pieces end in other words and need no closer look.
        if ((end := piece.rstrip()[-4:]) in endings or not end[1:3].isalpha())
        and end[-1:] == "."
        and _goes_on(pieces, i, rules)
    ]
    if not goes_on:
        return pieces
    begins = sorted({*range(len(pieces))}.difference(goes_on))
    return ["".join(pieces[a:b]) for a, b in itertools.pairwise([*begins, len(pieces)])]


def _goes_on(pieces: list[str], i: int, rules: _Language | None) -> bool:
    """Whether the period before piece i ends no sentence."""
    line = "".join([piece[-_TAIL:] for piece in pieces[max(0, i - _PIECES) : i]])
    end, after = line.rstrip(), pieces[i]
    last = end[-_LONGEST_WORD:].rpartition(" ")[2].lstrip(_QUOTES)
    if rules is not None:
        if last in rules.titles:
            return True
        if rules.ordinals and _COUNT.fullmatch(last):
            return _is_ordinal(end, after, rules, i <= _PIECES)
        if _without_article(last) in rules.abbreviations:
            return bool(_NUMBER_OR_SMALL.match(after))
    if _is_initial(last) or (last[-4:-2] == ".-" and _is_initial(last[-2:])):
        return _is_in_name(end[-_TAIL:].split(), after, rules)
    return False


def _is_in_name(words: list[str], after: str, rules: _Language | None) -> bool:
    """Whether a name goes on after the initial that is the last of the words."""
    if after.startswith("-"):  # J.-C., cut in two
        return _is_initial(after[1:3])
    if _is_initial(after[:2]) and after[2:3] in " -":
        return True
    if not _is_capital(after[:1]) or words[-1].endswith("J.-C."):
        return False
    if rules is None:
        # Two are a name. Of one, or of two in ASCII, sentencex decides: it may be a plan B.
        pair = len(words) > 1 and _is_initial(words[-2].lstrip(_QUOTES)) and not words[-1].isascii()
        return words[-1][-4:-2] == ".-" or pair
    following = _first_word(after)
    return following not in rules.openings and not _ELIDED.match(following)


def _is_ordinal(end: str, after: str, rules: _Language, whole: bool) -> bool:
    """Whether a German number and period say which one of those that are named next, as in "im 19. Jahrhundert".

    `whole` says that `end` is all of its line so far.
    """
    following = _first_word(after)
    if following in _COUNTED:
        return True
    words = end[-_TAIL:].split()
    first = words[0]
    while words and (_COUNT.fullmatch(words[-1].lstrip(_QUOTES)) or words[-1] in _AND):
        words.pop()
    if not words:  # a line begins with it: an ordinal or the number of an item, never a sentence
        return whole and len(end) <= _TAIL and first not in _AND
    return words[-1].lstrip(_QUOTES).lower() in _WHICH and following not in rules.openings


def _is_initial(word: str) -> bool:
    return len(word) == 2 and word[1] == "." and _is_capital(word[0])


def _is_capital(char: str) -> bool:
    return bool(char) and unicode_14.category(char) == "Lu"


def _without_article(word: str) -> str:
    return word.replace("’", "'").rpartition("'")[2]


def _first_word(text: str) -> str:
    return text.partition(" ")[0].rstrip(".,;:!?)«»“”\"'")
