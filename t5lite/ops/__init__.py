"""Operations that the models are built of and that the devices of a mesh share."""
