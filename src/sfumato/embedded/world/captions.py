"""Captions of scenes, in a small vocabulary with synonyms."""

import numpy as np

from sfumato.embedded.world.scene import Scene, Thing
from sfumato.embedded.world.split import WHOLE, Part

KIND_WORDS: dict[str, tuple[str, ...]] = {  # the first word is the commonest
    "ball": ("ball", "sphere"),
    "cube": ("cube", "box", "block"),
    "cylinder": ("cylinder", "can"),
    "cone": ("cone",),
    "ring": ("ring", "donut", "torus"),
    "star": ("star",),
    "heart": ("heart",),
    "mushroom": ("mushroom", "toadstool"),
    "capsule": ("capsule", "pill"),
    "pyramid": ("pyramid",),
    "mug": ("mug", "cup"),
    "bottle": ("bottle", "flask"),
    "snowman": ("snowman",),
    "tree": ("tree", "fir"),
    "house": ("house", "hut", "cottage"),
    "duck": ("duck", "rubber duck"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {"purple": ("purple", "violet"), "turquoise": ("turquoise", "cyan", "teal")}
MATERIAL_WORDS: dict[str, tuple[str, ...]] = {
    "matte": ("matte", "dull"),
    "shiny": ("shiny", "glossy"),
    "metal": ("metal", "metallic", "steel"),
    "wooden": ("wooden", "timber"),
}
GROUND_WORDS: dict[str, tuple[str, ...]] = {  # after "on", unless they begin with a preposition of their own
    "wood": ("wood", "a wooden table", "planks", "the wooden floor"),
    "grass": ("grass", "the lawn", "a meadow"),
    "sand": ("sand", "the beach"),
    "marble": ("marble", "a marble table"),
    "tiles": ("tiles", "a tiled floor"),
    "snow": ("snow", "the snow"),
    "water": ("water", "a lake", "the sea"),
    "night": ("at night", "in the dark", "in the night"),
}
RELATIONS = ("left of", "right of", "behind", "in front of", "beside", "next to")
GLUE = ("a", "an", "the", "and", "on", "of", "with", "in", "at", "photo", "picture", "photograph", "empty", "nothing", "only")


def vocabulary(part: Part = WHOLE) -> list[str]:
    """Every word that captions of a part of the world use, sorted."""
    tables = (
        (KIND_WORDS, part.kinds),
        (MATERIAL_WORDS, part.materials),
        (GROUND_WORDS, part.grounds),
        (COLOUR_WORDS, part.colours),
    )
    phrases = [phrase for table, names in tables for name in names for phrase in table.get(name, ())]
    return sorted({word for phrase in (*phrases, *part.colours, *GLUE, *RELATIONS) for word in phrase.split()})


def _word(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """The commonest word half of the time, otherwise any of them."""
    return words[0] if rng.random() < 0.5 else str(rng.choice(words))


def name(thing: Thing, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """A noun phrase for one thing, and which of its attributes the phrase names ("kind" always, "colour", "material")."""
    words, named = [], {"kind"}
    if rng.random() < 0.93:
        words.append(_word(COLOUR_WORDS.get(thing.colour, (thing.colour,)), rng))
        named.add("colour")
    if rng.random() < 0.4:  # "a shiny red ball", but mostly "a red wooden ball"
        last = thing.material in ("metal", "wooden") and rng.random() < 0.7
        words.insert(len(words) if last else 0, _word(MATERIAL_WORDS[thing.material], rng))
        named.add("material")
    words.append(_word(KIND_WORDS[thing.kind], rng))
    article = rng.choice([("an" if words[0][0] in "aeiou" else "a"), "the", ""], p=(0.8, 0.1, 0.1))
    return f"{article} {' '.join(words)}".strip(), frozenset(named)


def place(ground: str, rng: np.random.Generator) -> str:
    """Where something is, as a phrase that can follow its name: "on grass", "at night"."""
    phrase = _word(GROUND_WORDS[ground], rng)
    return phrase if phrase.startswith(("at ", "in ")) else f"on {phrase}"


def ground_alone(ground: str, rng: np.random.Generator) -> str:
    """A caption of a ground on which nothing stands."""
    where = place(ground, rng)
    return str(rng.choice([where, where.removeprefix("on "), f"nothing {where}", f"empty {where.split()[-1]}"]))


def relation(thing: Thing, other: Thing, rng: np.random.Generator) -> str:
    """Where the first thing is as seen from the second, by the camera."""
    dx, dy = thing.x - other.x, thing.y - other.y
    if rng.random() < 0.2:
        return str(rng.choice(["beside", "next to"]))
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "in front of" if dy < 0 else "behind"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One way to describe the scene: its main thing, sometimes the ground, sometimes the other things."""
    if not scene.things:
        return ground_alone(scene.ground, rng)
    main, *others = scene.things
    text = name(main, rng)[0]
    if others and rng.random() < 0.3:
        if rng.random() < 0.5:
            text = " and ".join([text, *(name(thing, rng)[0] for thing in others)])
        else:
            other = others[int(rng.integers(len(others)))]
            text = f"{text} {relation(main, other, rng)} {name(other, rng)[0]}"
    if rng.random() < 0.35:
        text += f" {place(scene.ground, rng)}"
    return text if rng.random() < 0.85 else f"a {rng.choice(['photo', 'picture', 'photograph'])} of {text}"
