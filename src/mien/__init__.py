"""mien: what each person in a video shows, at every moment, from face and voice together."""
