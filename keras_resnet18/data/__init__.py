"""Any labeled images become one small `Source`, and a `Source` becomes `tf.data`."""
