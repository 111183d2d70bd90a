"""The scripted operator and the recording of its episodes."""
