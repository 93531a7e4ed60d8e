"""How the projection of ``smol`` was trained on photographs, and how well it names them."""
