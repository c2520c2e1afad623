"""What edits are measured by. Every measure is a function of pictures and masks; models come in as arguments."""
