"""Go on when the disk takes nothing, and rebuild a store that was lost."""
