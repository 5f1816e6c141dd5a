"""Point-in-time features and their replay. Pure: no storage, no network, no clock."""
