"""The two pictures that ship with nstcore, drawn from nothing: a small renderer and a small painter."""
