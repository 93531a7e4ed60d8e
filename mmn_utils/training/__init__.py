"""What every training in this project shares."""
