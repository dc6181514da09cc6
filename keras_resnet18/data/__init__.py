"""Any labelled images become one small `Source`, and a `Source` becomes `tf.data`."""
