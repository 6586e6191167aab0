"""What a run is and may do, decided before it starts; what is said of it afterwards."""
