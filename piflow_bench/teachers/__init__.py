"""Teachers: velocity fields from checkpoints, from closed forms, or trained here."""
