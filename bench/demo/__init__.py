"""The ten-second proof: real parts, real kills, and an auditor who belongs to none of them."""
