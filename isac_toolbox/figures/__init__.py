"""The project's figures: which there are, how one is drawn, and the sweeps that several share."""
