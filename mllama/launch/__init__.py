"""From the options of a start to the model's files, devices and MAX's arguments."""
