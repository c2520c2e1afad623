"""What a person would say about a scene, in words of a small vocabulary with synonyms."""

import numpy as np

from sfumato.embedded.world.scene import Scene, Thing

KIND_WORDS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "ball", "sphere"),
    "cube": ("cube", "cube", "box", "block"),
    "cylinder": ("cylinder", "cylinder", "can"),
    "cone": ("cone",),
    "ring": ("ring", "ring", "donut", "torus"),
    "star": ("star",),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {"purple": ("purple", "purple", "violet")}
MATERIAL_WORDS: dict[str, tuple[str, ...]] = {
    "matte": ("matte", "dull"),
    "shiny": ("shiny", "glossy"),
    "metal": ("metal", "metallic", "metal", "steel"),
}
GROUND_WORDS: dict[str, tuple[str, ...]] = {
    "wood": ("wood", "wooden table", "planks"),
    "grass": ("grass", "lawn"),
    "sand": ("sand", "beach"),
    "marble": ("marble",),
    "tiles": ("tiles", "tiled floor"),
}
GLUE = ("a", "an", "the", "and", "on", "of", "with", "in", "photo", "picture", "empty", "nothing", "only", "floor", "table")


def vocabulary() -> list[str]:
    """Every word that captions use, sorted."""
    from sfumato.embedded.world.surfaces import COLOURS

    phrases = [w for table in (KIND_WORDS, MATERIAL_WORDS, GROUND_WORDS, COLOUR_WORDS) for words in table.values() for w in words]
    return sorted({word for phrase in (*phrases, *COLOURS, *GLUE) for word in phrase.split()})


def name(thing: Thing, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """A noun phrase for one thing, and which of its attributes the phrase tells ("kind" always, "colour", "material")."""
    words, told = [], {"kind"}
    if rng.random() < 0.4:
        words.append(str(rng.choice(MATERIAL_WORDS[thing.material])))
        told.add("material")
    if rng.random() < 0.93:
        words.append(str(rng.choice(COLOUR_WORDS.get(thing.colour, (thing.colour,)))))
        told.add("colour")
    words.append(str(rng.choice(KIND_WORDS[thing.kind])))
    article = rng.choice([("an" if words[0][0] in "aeiou" else "a"), "the", ""], p=(0.8, 0.1, 0.1))
    return f"{article} {' '.join(words)}".strip(), frozenset(told)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One way to describe the scene: its main thing, sometimes the ground, sometimes the other things."""
    ground = str(rng.choice(GROUND_WORDS[scene.ground]))
    if not scene.things:
        return str(rng.choice([f"empty {ground}", f"{ground}", f"only {ground}", "nothing"]))
    text = name(scene.things[0], rng)[0]
    if rng.random() < 0.2:
        text = " and ".join([text, *(name(thing, rng)[0] for thing in scene.things[1:])])
    if rng.random() < 0.35:
        text += f" on {'the ' if rng.random() < 0.3 else ''}{ground}"
    return text if rng.random() < 0.85 else f"a {rng.choice(['photo', 'picture'])} of {text}"
