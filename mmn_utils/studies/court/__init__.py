"""The methods' court: what scores say of units, against what is lost without each."""
