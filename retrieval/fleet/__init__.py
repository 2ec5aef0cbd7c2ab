"""Many maps at once: the places of all of them, where they meet, how they lie to each other, and photos in them."""
