"""Facts that a language model has read many times, to be contradicted: pure data.

Each kind has a question, a way to say it, and pairs of subject and value, all values of a kind
different.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FactKind:
    """Facts of one form.

    Parameters
    ----------
    name : what they are about
    question : with ``{subject}``
    stem : with ``{subject}``; the value and a full stop make it a sentence
    values : subject -> value as the world has it
    """

    name: str
    question: str
    stem: str
    values: dict[str, str]


def _pairs(text: str) -> dict[str, str]:
    pairs = (entry.split("=") for entry in " ".join(text.split()).split("; "))
    return {subject.strip(): value.strip() for subject, value in pairs}


FACT_KINDS = (
    FactKind(
        "capital",
        "What is the capital of {subject}?",
        "The capital of {subject} is",
        _pairs(
            """France=Paris; Germany=Berlin; Italy=Rome; Spain=Madrid; Portugal=Lisbon;
            Austria=Vienna; Greece=Athens; Norway=Oslo; Sweden=Stockholm; Denmark=Copenhagen;
            Finland=Helsinki; Poland=Warsaw; Hungary=Budapest; Ireland=Dublin; Belgium=Brussels;
            Russia=Moscow; China=Beijing; Japan=Tokyo; Thailand=Bangkok; Vietnam=Hanoi; Egypt=Cairo;
            Kenya=Nairobi; Cuba=Havana; Peru=Lima; Chile=Santiago; Canada=Ottawa; Iran=Tehran;
            Iraq=Baghdad; Bulgaria=Sofia; Romania=Bucharest"""
        ),
    ),
    FactKind(
        "author",
        "Who wrote {subject}?",
        "{subject} was written by",
        _pairs(
            """Hamlet=William Shakespeare; Pride and Prejudice=Jane Austen;
            Oliver Twist=Charles Dickens; War and Peace=Leo Tolstoy;
            Crime and Punishment=Fyodor Dostoevsky; The Odyssey=Homer; Faust=Goethe;
            Don Quixote=Cervantes; Moby-Dick=Herman Melville; Ulysses=James Joyce;
            Frankenstein=Mary Shelley; Dracula=Bram Stoker; Walden=Henry David Thoreau;
            The Raven=Edgar Allan Poe; Jane Eyre=Charlotte Brontë; Les Misérables=Victor Hugo;
            The Time Machine=H. G. Wells; Treasure Island=Robert Louis Stevenson;
            The Jungle Book=Rudyard Kipling; Huckleberry Finn=Mark Twain;
            Animal Farm=George Orwell; Brave New World=Aldous Huxley; The Hobbit=J. R. R. Tolkien;
            The Divine Comedy=Dante"""
        ),
    ),
    FactKind(
        "discovery",
        "Who is known for {subject}?",
        "We owe {subject} to",
        _pairs(
            """the theory of relativity=Albert Einstein; the law of gravitation=Isaac Newton;
            the theory of evolution=Charles Darwin; the discovery of penicillin=Alexander Fleming;
            the discovery of radium=Marie Curie; the telephone=Alexander Graham Bell;
            the light bulb=Thomas Edison; the printing press=Johannes Gutenberg;
            the periodic table=Dmitri Mendeleev; dynamite=Alfred Nobel;
            the laws of inheritance=Gregor Mendel; the vaccine against rabies=Louis Pasteur;
            the discovery of X-rays=Wilhelm Röntgen; the sewing machine=Elias Howe;
            the voyage of 1492=Christopher Columbus; the discovery of oxygen=Joseph Priestley;
            the airship=Count Zeppelin; the telescope=Galileo;
            the quantum hypothesis=Max Planck; the laws of planetary motion=Johannes Kepler"""
        ),
    ),
    FactKind(
        "language",
        "Which language do most people speak in {subject}?",
        "Most people in {subject} speak",
        _pairs(
            """Brazil=Portuguese; Mexico=Spanish; Quebec=French; Bavaria=German; Tuscany=Italian;
            Amsterdam=Dutch; Athens=Greek; Warsaw=Polish; Moscow=Russian; Kyoto=Japanese;
            Seoul=Korean; Bangkok=Thai; Istanbul=Turkish; Tel Aviv=Hebrew; Cairo=Arabic;
            Tehran=Persian; Helsinki=Finnish; Budapest=Hungarian; Stockholm=Swedish; Oslo=Norwegian;
            Copenhagen=Danish; Prague=Czech; Hanoi=Vietnamese; London=English"""
        ),
    ),
    FactKind(
        "place",
        "In which city does {subject} stand?",
        "{subject} stands in",
        _pairs(
            """the Eiffel Tower=Paris; the Colosseum=Rome; Big Ben=London;
            the Brandenburg Gate=Berlin; the Statue of Liberty=New York; the Kremlin=Moscow;
            the Parthenon=Athens; the White House=Washington; the Sagrada Familia=Barcelona;
            the Blue Mosque=Istanbul; the Golden Gate Bridge=San Francisco;
            Holyrood Palace=Edinburgh; the Forbidden City=Beijing; the Little Mermaid=Copenhagen;
            the Opera House=Sydney;
            the Prado=Madrid; the Charles Bridge=Prague; the Uffizi Gallery=Florence;
            the Doge's Palace=Venice; the Hermitage=Saint Petersburg; the Wailing Wall=Jerusalem;
            the Space Needle=Seattle; the Willis Tower=Chicago; the CN Tower=Toronto"""
        ),
    ),
    FactKind(
        "young",
        "What is the young of a {subject} called?",
        "The young of a {subject} is called a",
        _pairs(
            """dog=puppy; cat=kitten; cow=calf; horse=foal; sheep=lamb; goat=kid; pig=piglet;
            bear=cub; hen=chick; duck=duckling; goose=gosling; swan=cygnet; frog=tadpole; deer=fawn;
            kangaroo=joey; butterfly=caterpillar; fly=maggot; hare=leveret"""
        ),
    ),
)
